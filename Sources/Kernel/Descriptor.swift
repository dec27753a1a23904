import Glibc

/// A file descriptor with one owner: closed when its owner goes away.
public struct Descriptor: ~Copyable, Sendable {
    /// The number, valid for as long as this value lives.
    public let raw: Int32

    /// Takes ownership of an open descriptor.
    public init(taking raw: Int32) { self.raw = raw }

    /// Takes ownership of the result of a call that answers `-errno` instead of a descriptor.
    public init(checking call: String, _ result: Int32) throws(KernelError) {
        self.raw = try checked(call, result)
    }

    deinit { Glibc.close(raw) }

    /// Closes, and reports what close(2) says (a late write error, for instance).
    public consuming func close() throws(KernelError) {
        let raw = release()
        if Glibc.close(raw) < 0 { throw KernelError("close") }
    }

    /// Gives the number up to a new owner, who must close it.
    public consuming func release() -> Int32 {
        let raw = raw
        discard self
        return raw
    }

    /// Another descriptor of the same open file, close-on-exec.
    public borrowing func duplicate() throws(KernelError) -> Descriptor {
        let copy = fcntl(raw, F_DUPFD_CLOEXEC, 0)
        if copy < 0 { throw KernelError("fcntl F_DUPFD_CLOEXEC") }
        return Descriptor(taking: copy)
    }

    /// Sets O_NONBLOCK.
    public borrowing func setNonblocking() throws(KernelError) {
        let flags = fcntl(raw, F_GETFL)
        if flags < 0 || fcntl(raw, F_SETFL, flags | O_NONBLOCK) < 0 { throw KernelError("fcntl F_SETFL") }
    }
}
