import CLinux
import Glibc

/// timerfd_create(2): a moment that a thread in epoll or poll is woken at. A wait with a deadline sets a timer up and takes
/// it down each time; this one is set once, which is what a loop wants that sleeps a hundred thousand times a second.
public struct TimerDescriptor: ~Copyable, Sendable {
    private let descriptor: Descriptor

    public init() throws(KernelError) {
        let raw = timerfd_create(CLOCK_MONOTONIC, Int32(TFD_CLOEXEC | TFD_NONBLOCK))
        if raw < 0 { throw KernelError("timerfd_create") }
        descriptor = Descriptor(taking: raw)
    }

    public var raw: Int32 { descriptor.raw }

    /// Becomes readable at `deadline`, instead of when it was to before; `.never` disarms.
    public borrowing func arm(at deadline: Deadline) {
        var time = itimerspec()
        if deadline < .never {
            // 0 would disarm.
            let nanoseconds = max(1, deadline.nanoseconds)
            time.it_value.tv_sec = Int(nanoseconds / 1_000_000_000)
            time.it_value.tv_nsec = Int(nanoseconds % 1_000_000_000)
        }
        _ = timerfd_settime(raw, Int32(TFD_TIMER_ABSTIME), &time, nil)
    }

    /// Takes the expiry off; answers whether there was one.
    @discardableResult
    public borrowing func drain() -> Bool {
        var count: UInt64 = 0
        return read(raw, &count, 8) == 8
    }
}
