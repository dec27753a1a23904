import CLinux
import Glibc

/// epoll(7): one thread waits for many descriptors. `wait` belongs to one thread; `add` and `remove` to any.
public struct Epoll: ~Copyable, Sendable {
    private let descriptor: Descriptor

    public init() throws(KernelError) {
        let raw = epoll_create1(Int32(EPOLL_CLOEXEC))
        if raw < 0 { throw KernelError("epoll_create1") }
        descriptor = Descriptor(taking: raw)
    }

    public var raw: Int32 { descriptor.raw }

    /// Watches `watched` for `events`; `token` comes back with each event.
    public borrowing func add(_ watched: Int32, events: EPOLL_EVENTS = EPOLLIN, token: UInt64) throws(KernelError) {
        try control(EPOLL_CTL_ADD, watched, events, token)
    }

    /// Changes what `watched` is watched for.
    public borrowing func modify(_ watched: Int32, events: EPOLL_EVENTS, token: UInt64) throws(KernelError) {
        try control(EPOLL_CTL_MOD, watched, events, token)
    }

    public borrowing func remove(_ watched: Int32) throws(KernelError) {
        try control(EPOLL_CTL_DEL, watched, EPOLLIN, 0)
    }

    private borrowing func control(_ operation: Int32, _ watched: Int32, _ events: EPOLL_EVENTS, _ token: UInt64)
        throws(KernelError)
    {
        var event = epoll_event()
        event.events = events.rawValue
        event.data.u64 = token
        if epoll_ctl(raw, operation, watched, &event) < 0 { throw KernelError("epoll_ctl") }
    }

    /// Waits until something happens or the deadline passes; answers how many events were written (0 at the deadline or after
    /// a signal).
    public borrowing func wait(into events: UnsafeMutableBufferPointer<epoll_event>, until deadline: Deadline) -> Int {
        let count = epoll_wait(raw, events.baseAddress!, Int32(events.count), deadline.pollMilliseconds)
        return max(0, Int(count))
    }
}
