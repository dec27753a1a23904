import CLinux
import Glibc
import Kernel

/// The Unix socket at which programs join; its file goes with it.
final class ListeningSocket: Sendable {
    private let descriptor: Descriptor
    private let path: String
    var raw: Int32 { descriptor.raw }

    /// Takes the path over from a daemon that has ended; refuses one that another daemon serves.
    init(path: String) throws(LiteServiceError) {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        guard path.hasPrefix("/"), bytes.count < MemoryLayout.size(ofValue: address.sun_path) else {
            throw LiteServiceError(
                "the socket \(path) is not an absolute path of at most "
                    + "\(MemoryLayout.size(ofValue: address.sun_path) - 1) bytes; choose another with lite.socket")
        }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        let kind = Int32(SOCK_SEQPACKET.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
        let raw = socket(AF_UNIX, kind, 0)
        if raw < 0 { throw LiteServiceError("\(KernelError("socket"))") }
        descriptor = Descriptor(taking: raw)
        self.path = path
        let size = socklen_t(MemoryLayout<sockaddr_un>.size)
        let result = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { target -> Int32 in
                if bind(raw, target, size) == 0 { return 0 }
                if errno != EADDRINUSE { return errno }
                let probe = socket(AF_UNIX, kind, 0)
                defer { close(probe) }
                if connect(probe, target, size) == 0 || errno != ECONNREFUSED { return EADDRINUSE }
                unlink(path)
                return bind(raw, target, size) == 0 ? 0 : errno
            }
        }
        if result != 0 {
            throw LiteServiceError(
                "cannot listen at \(path): \(KernelError.text(result)); choose another with lite.socket")
        }
        if chmod(path, 0o666) < 0 || listen(raw, 128) < 0 { throw LiteServiceError("\(KernelError("listen"))") }
    }

    deinit { unlink(path) }

    /// The next program; nil when there is none.
    func accept() -> Descriptor? {
        let raw = lego_accept(descriptor.raw, 1)
        return raw < 0 ? nil : Descriptor(taking: raw)
    }
}
