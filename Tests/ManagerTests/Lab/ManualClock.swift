import Synchronization

/// Time that passes when a test says so, in nanoseconds.
final class ManualClock: Sendable {
    private let time = Atomic<UInt64>(1_000_000_000)
    var now: UInt64 { time.load(ordering: .sequentiallyConsistent) }
    func advance(milliseconds: UInt64) { time.add(milliseconds * 1_000_000, ordering: .sequentiallyConsistent) }
}
