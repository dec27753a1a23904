import Glibc

/// Nanoseconds of CLOCK_MONOTONIC. Cost: some 30 ns.
@inlinable
public func monotonicNanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
}

/// A moment on the monotonic clock after which a wait gives up. Every wait has one.
public struct Deadline: Sendable, Comparable {
    /// Monotonic nanoseconds; `UInt64.max` never passes.
    public let nanoseconds: UInt64

    @inlinable
    public init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }

    /// The moment that lies `duration` after now.
    @inlinable
    public static func after(_ duration: Duration) -> Deadline {
        let (seconds, attoseconds) = duration.components
        let span = UInt64(max(0, seconds)) &* 1_000_000_000 &+ UInt64(max(0, attoseconds)) / 1_000_000_000
        return Deadline(nanoseconds: monotonicNanoseconds() &+ span)
    }

    public static let never = Deadline(nanoseconds: .max)

    @inlinable
    public static func < (left: Deadline, right: Deadline) -> Bool { left.nanoseconds < right.nanoseconds }

    @inlinable
    public var hasPassed: Bool { nanoseconds != .max && monotonicNanoseconds() >= nanoseconds }

    /// Nanoseconds left; 0 when passed; `Int64.max` when it never passes.
    @inlinable
    public var nanosecondsLeft: Int64 {
        if nanoseconds == .max { return .max }
        let now = monotonicNanoseconds()
        return now >= nanoseconds ? 0 : Int64(clamping: nanoseconds - now)
    }

    /// Milliseconds left for poll(2) and epoll_wait(2), rounded up; -1 when it never passes.
    @inlinable
    public var pollMilliseconds: Int32 {
        if nanoseconds == .max { return -1 }
        return Int32(clamping: (nanosecondsLeft &+ 999_999) / 1_000_000)
    }
}
