import Glibc

/// One line of /proc/self/mountinfo (proc_pid_mountinfo(5)). Paths are bytes as the kernel tells them, without its
/// escapes.
struct MountEntry: Equatable {
    var major: UInt32
    var minor: UInt32
    var mountPoint: String
    var type: String

    /// nil for a line that is not one.
    init?(line: Substring) {
        let fields = line.split(separator: " ", omittingEmptySubsequences: true)
        guard fields.count >= 9, let dash = fields.firstIndex(of: "-"), dash + 1 < fields.count else { return nil }
        let device = fields[2].split(separator: ":")
        guard device.count == 2, let major = UInt32(device[0]), let minor = UInt32(device[1]) else { return nil }
        self.major = major
        self.minor = minor
        mountPoint = Self.unescaped(fields[4])
        type = String(fields[dash + 1])
    }

    /// `\040` and the like stand for blank, tab, newline and backslash.
    private static func unescaped(_ field: Substring) -> String {
        var bytes: [UInt8] = []
        let raw = Array(field.utf8)
        var index = 0
        while index < raw.count {
            if raw[index] == UInt8(ascii: "\\"), index + 3 < raw.count,
                let value = UInt8(String(decoding: raw[index + 1...index + 3], as: UTF8.self), radix: 8)
            {
                bytes.append(value)
                index += 4
            } else {
                bytes.append(raw[index])
                index += 1
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Whether it keeps files on a disk: what a program expects to find, unlike /proc, /dev or a tmpfs.
    var isDurable: Bool { major != 0 || ["btrfs", "zfs", "bcachefs"].contains(type) }
}

enum MountTable {
    static func parse(_ text: String) -> [MountEntry] {
        text.split(separator: "\n").compactMap { MountEntry(line: $0) }
    }

    /// The durable mounts strictly below `root` in the order of their paths, parents first, one per mount point: those
    /// that an overlay of `root` alone would leave out.
    static func durable(_ entries: [MountEntry], below root: String) -> [MountEntry] {
        let prefix = root == "/" ? "/" : root + "/"
        var last: [String: MountEntry] = [:]
        for entry in entries where entry.mountPoint.hasPrefix(prefix) && entry.mountPoint != root {
            last[entry.mountPoint] = entry
        }
        return last.values.filter(\.isDurable).sorted { $0.mountPoint < $1.mountPoint }
    }

    /// This process's mounts; empty when /proc is not there.
    static func current() -> [MountEntry] {
        let descriptor = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC)
        if descriptor < 0 { return [] }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = read(descriptor, &buffer, buffer.count)
            if count <= 0 { break }
            bytes += buffer[..<count]
        }
        return parse(String(decoding: bytes, as: UTF8.self))
    }
}
