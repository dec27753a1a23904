import Kernel
import Synchronization
import Wire

/// One end of a modelled link: what its queue pairs share. Each direction has a bandwidth that all of them draw from.
/// An end counts what it asks for itself, its READs and its WRITEs; what its peer asks for, the peer's end counts.
public final class LinkLine: Sendable {
    public let model: LinkModel
    /// When each direction has carried all that it was given: in 64ths of a nanosecond, so that short messages are not
    /// rounded away. Lasts for nine years of a host's uptime.
    private let outward = Atomic<UInt64>(0)
    private let inward = Atomic<UInt64>(0)
    private let ticksPerByte: Double

    private static let ticks = 64.0

    public init(_ model: LinkModel) {
        self.model = model
        ticksPerByte = Self.ticks * 1e9 / Double(model.bytesPerSecond)
    }

    enum Direction {
        /// From this end to the peer.
        case outward
        case inward
    }

    /// When an operation that is posted `now` is over, in nanoseconds of the same clock.
    func reserve(_ bytes: Int, _ direction: Direction, now: UInt64) -> UInt64 {
        let start = now &* UInt64(Self.ticks)
        let time = UInt64(Double(bytes) * ticksPerByte)
        let end =
            switch direction {
            case .outward: Self.occupy(outward, from: start, time)
            case .inward: Self.occupy(inward, from: start, time)
            }
        return end / UInt64(Self.ticks) &+ model.latency_ns
    }

    private static func occupy(_ line: borrowing Atomic<UInt64>, from start: UInt64, _ time: UInt64) -> UInt64 {
        var free = line.load(ordering: .relaxed)
        while true {
            let end = max(free, start) &+ time
            let result = line.weakCompareExchange(expected: free, desired: end, ordering: .relaxed)
            if result.exchanged { return end }
            free = result.original
        }
    }
}

/// What the times of modelled links are measured by.
struct LinkClock: Sendable {
    /// Nanoseconds that only grow.
    let now: @Sendable () -> UInt64

    static let monotonic = LinkClock(now: { monotonicNanoseconds() })
}
