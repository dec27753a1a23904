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

    /// Whether it holds files that somebody put there, which a program expects to find: file systems on disks, those of
    /// other hosts, and tmpfs where it is not the system's own. Unlike /proc or /sys, and unlike what a process of the
    /// user serves (fuse), which may not answer.
    var holdsFiles: Bool {
        if major != 0 || Self.diskTypes.contains(type) { return true }
        let isSystems = Self.systemPlaces.contains { mountPoint == $0 || mountPoint.hasPrefix($0 + "/") }
        return Self.otherTypes.contains(type) && !isSystems
    }

    /// File systems on disks whose device numbers do not tell.
    private static let diskTypes: Set = ["btrfs", "zfs", "bcachefs"]
    private static let otherTypes: Set = ["tmpfs", "nfs", "nfs4", "9p", "virtiofs", "cifs"]
    /// Where a program has its own, or what is there belongs to the host's running system.
    private static let systemPlaces = ["/dev", "/proc", "/run", "/sys", "/tmp"]
}

enum MountTable {
    static func parse(_ text: String) -> [MountEntry] {
        text.split(separator: "\n").compactMap { MountEntry(line: $0) }
    }

    /// The mounts with files strictly below `root` in the order of their paths, parents first, one per mount point: those
    /// that an overlay of `root` alone would leave out.
    static func withFiles(_ entries: [MountEntry], below root: String) -> [MountEntry] {
        let prefix = root == "/" ? "/" : root + "/"
        var last: [String: MountEntry] = [:]
        for entry in entries where entry.mountPoint.hasPrefix(prefix) && entry.mountPoint != root {
            last[entry.mountPoint] = entry
        }
        return last.values.filter(\.holdsFiles).sorted { $0.mountPoint < $1.mountPoint }
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
