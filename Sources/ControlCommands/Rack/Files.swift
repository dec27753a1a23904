import Glibc
import Kernel
import Wire

/// Small files of the rack's bookkeeping.
enum Files {
    static let bytes_max = 4 << 20

    /// The whole file; nil when there is none.
    static func read(_ path: String) throws(CommandFailure) -> [UInt8]? {
        let raw = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY)
        if raw < 0 {
            if errno == ENOENT || errno == ENOTDIR || errno == ESRCH { return nil }
            throw CommandFailure("cannot read \(path): \(KernelError.text(errno))")
        }
        let file = Descriptor(taking: raw)
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 16 << 10)
        while bytes.count < bytes_max {
            let count = Glibc.read(file.raw, &buffer, buffer.count)
            if count < 0 && errno == EINTR { continue }
            // A process that ends while its file in /proc is read.
            if count < 0 && errno == ESRCH { return nil }
            if count < 0 { throw CommandFailure("cannot read \(path): \(KernelError.text(errno))") }
            if count == 0 { break }
            bytes += buffer[..<count]
        }
        return bytes
    }

    /// Writes the file so that after a crash at any moment either the old or the new content is there. Several commands
    /// may write it at a time: one after the other.
    static func replace(_ path: String, with bytes: [UInt8], mode: mode_t) throws(CommandFailure) {
        let temporary = path + ".new"
        let file = try openLocked(temporary, mode: mode)
        if ftruncate(file.raw, 0) < 0 { throw CommandFailure("cannot write \(temporary): \(KernelError.text(errno))") }
        var written = 0
        while written < bytes.count {
            let count = bytes.withUnsafeBytes { Glibc.write(file.raw, $0.baseAddress! + written, $0.count - written) }
            if count < 0 && errno == EINTR { continue }
            if count <= 0 {
                let reason = KernelError.text(errno)
                unlink(temporary)
                throw CommandFailure("cannot write \(temporary): \(reason)")
            }
            written += count
        }
        if fchmod(file.raw, mode) < 0 || fsync(file.raw) < 0 || rename(temporary, path) < 0 {
            let reason = KernelError.text(errno)
            unlink(temporary)
            throw CommandFailure("cannot write \(path): \(reason)")
        }
    }

    /// Opens a file that one command at a time writes and then renames: what a killed one has left of it is used again.
    private static func openLocked(_ path: String, mode: mode_t) throws(CommandFailure) -> Descriptor {
        let deadline = Deadline.after(.seconds(5))
        while true {
            let raw = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, mode)
            if raw < 0 { throw CommandFailure("cannot write \(path): \(KernelError.text(errno))") }
            let file = Descriptor(taking: raw)
            var opened = stat()
            var named = stat()
            if flock(raw, LOCK_EX | LOCK_NB) == 0 {
                // The command that had it has renamed it since.
                if fstat(raw, &opened) == 0, lstat(path, &named) == 0, opened.st_ino == named.st_ino { return file }
                continue
            }
            if deadline.hasPassed {
                throw CommandFailure("cannot write \(path): another legoctl is writing it; try again")
            }
            // flock(2) has no deadline. The other one has a few hundred bytes to write.
            usleep(1000)
        }
    }

    /// Makes the directory and those above it that are missing.
    static func makeDirectory(_ path: String, mode: mode_t = 0o755) throws(CommandFailure) {
        var made = ""
        for part in path.split(separator: "/") {
            made += "/\(part)"
            if mkdir(made, mode) < 0 && errno != EEXIST {
                throw CommandFailure("cannot make the directory \(made): \(KernelError.text(errno))")
            }
        }
        var status = stat()
        if stat(path, &status) < 0 || status.st_mode & S_IFMT != S_IFDIR {
            throw CommandFailure("\(path) is no directory; name another with --state")
        }
    }

    /// The last line of a log that is not empty; nil when there is none.
    static func lastLine(_ path: String) -> String? {
        guard let bytes = (try? read(path)) ?? nil else { return nil }
        return String(decoding: bytes.suffix(8 << 10), as: UTF8.self).split(whereSeparator: \.isNewline).last
            .map(String.init)
    }

    /// Where a symbolic link points; nil when there is none.
    static func linkTarget(_ path: String) -> String? {
        withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 1) { buffer in
            let count = readlink(path, buffer.baseAddress!, buffer.count)
            return count < 0 ? nil : String(decoding: buffer.prefix(count), as: UTF8.self)
        }
    }

    /// `path` as an absolute one.
    static func absolute(_ path: String) -> String {
        if path.hasPrefix("/") { return path }
        return (currentDirectory ?? "") + "/" + path
    }

    /// As `ByteText`; nil when it has been deleted or cannot be reached.
    static var currentDirectory: String? {
        guard let path = getcwd(nil, 0) else { return nil }
        defer { free(path) }
        return ByteText.text(cString: path)
    }
}

/// Keeps two commands from working on one rack at a time: `<state>/rack.lock`. The kernel releases it however a command
/// ends.
struct RackLock: ~Copyable {
    private let file: Descriptor

    init(stateDirectory: String) throws(CommandFailure) {
        file = try Self.lock(stateDirectory + "/rack.lock", of: stateDirectory)
    }

    private static func lock(_ path: String, of stateDirectory: String) throws(CommandFailure) -> Descriptor {
        let raw = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        if raw < 0 { throw CommandFailure("cannot open \(path): \(KernelError.text(errno))") }
        let file = Descriptor(taking: raw)
        if flock(raw, LOCK_EX | LOCK_NB) < 0 {
            throw CommandFailure("another legoctl is starting or stopping the rack in \(stateDirectory); wait for it")
        }
        return file
    }
}
