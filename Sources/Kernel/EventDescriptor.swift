import CLinux
import Glibc

/// eventfd(2): wakes a thread that waits in epoll or poll. Any thread may signal.
public struct EventDescriptor: ~Copyable, Sendable {
    private let descriptor: Descriptor

    public init() throws(KernelError) {
        let raw = eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))
        if raw < 0 { throw KernelError("eventfd") }
        descriptor = Descriptor(taking: raw)
    }

    public var raw: Int32 { descriptor.raw }

    public borrowing func signal() {
        var one: UInt64 = 1
        _ = write(raw, &one, 8)
    }

    /// Takes all signals; answers whether there was one.
    @discardableResult
    public borrowing func drain() -> Bool {
        var count: UInt64 = 0
        return read(raw, &count, 8) == 8
    }
}
