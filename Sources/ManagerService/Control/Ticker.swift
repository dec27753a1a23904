import Glibc
import Kernel
import Synchronization

/// A thread that calls `tick` ten times a second, and does nothing else. It tells how many nanoseconds late it is, when it is
/// so late that this process, or its whole host, must have stood still; 0 otherwise.
final class Ticker: Sendable {
    private static let period_ms: Int32 = 100
    /// Beyond what a busy host does to a thread that sleeps.
    private static let late_ns: UInt64 = 200_000_000

    private let stopping: EventDescriptor
    private let thread = Mutex<KernelThread?>(nil)

    init() throws(KernelError) { stopping = try EventDescriptor() }

    func start(_ tick: @escaping @Sendable (UInt64) -> Void) throws(KernelError) {
        let started = try KernelThread(name: "lego-tick") { [self] in
            var stop = pollfd(fd: stopping.raw, events: Int16(POLLIN), revents: 0)
            var last = monotonicNanoseconds()
            while poll(&stop, 1, Self.period_ms) <= 0 {
                let now = monotonicNanoseconds()
                let late = Self.lateness(now &- last)
                last = now
                tick(late)
            }
        }
        thread.withLock { $0 = started }
    }

    /// How late a tick is that comes `elapsed` nanoseconds after the last one.
    static func lateness(_ elapsed: UInt64) -> UInt64 {
        let period = UInt64(period_ms) * 1_000_000
        return elapsed > period + late_ns ? elapsed - period : 0
    }

    /// Ends the thread after the tick under way. Idempotent.
    func stop() {
        stopping.signal()
        thread.join()
    }
}
