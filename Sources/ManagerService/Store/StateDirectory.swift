import Glibc
import Kernel

/// The manager's directory on disk, held by one manager at a time. The kernel gives the hold up when the process ends,
/// however.
struct StateDirectory: ~Copyable, Sendable {
    let path: String
    private let lock: Descriptor

    /// Makes the directory if need be (mode 0700, parents too) and takes hold of it.
    init(_ path: String) throws(ManagerError) {
        try Self.make(path)
        let lock = try Self.hold(path)
        self.path = path
        self.lock = lock
    }

    private static func hold(_ path: String) throws(ManagerError) -> Descriptor {
        let raw = open("\(path)/manager.lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        if raw < 0 { throw .stateDirectory(path: path, reason: KernelError.text(errno)) }
        let file = Descriptor(taking: raw)
        if flock(raw, LOCK_EX | LOCK_NB) == 0 { return file }
        if errno == EWOULDBLOCK { throw .stateInUse(path: path) }
        throw .stateDirectory(path: path, reason: KernelError.text(errno))
    }

    /// A file that nobody but its owner reads, made before a library makes it with wider rights.
    borrowing func privateFile(_ name: String) throws(ManagerError) -> String {
        let file = "\(path)/\(name)"
        let raw = open(file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        if raw < 0 { throw .store(path: file, reason: KernelError.text(errno)) }
        close(raw)
        return file
    }

    private static func make(_ path: String) throws(ManagerError) {
        if !path.hasPrefix("/") { throw .stateDirectory(path: path, reason: "the path must begin with a slash") }
        var prefix = ""
        for component in path.split(separator: "/") {
            prefix += "/\(component)"
            if mkdir(prefix, 0o700) < 0, errno != EEXIST {
                throw .stateDirectory(path: path, reason: "mkdir \(prefix): \(KernelError.text(errno))")
            }
        }
        var status = stat()
        if stat(path, &status) < 0 { throw .stateDirectory(path: path, reason: KernelError.text(errno)) }
        if status.st_mode & S_IFMT != S_IFDIR { throw .stateDirectory(path: path, reason: "not a directory") }
    }
}
