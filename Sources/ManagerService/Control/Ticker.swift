import Glibc
import Kernel
import Synchronization

/// A thread that calls `tick` ten times a second, and does nothing else.
final class Ticker: Sendable {
    private static let period_ms: Int32 = 100

    private let stopping: EventDescriptor
    private let thread = Mutex<KernelThread?>(nil)

    init() throws(KernelError) { stopping = try EventDescriptor() }

    func start(_ tick: @escaping @Sendable () -> Void) throws(KernelError) {
        let started = try KernelThread(name: "lego-tick") { [self] in
            var stop = pollfd(fd: stopping.raw, events: Int16(POLLIN), revents: 0)
            while poll(&stop, 1, Self.period_ms) <= 0 { tick() }
        }
        thread.withLock { $0 = started }
    }

    /// Ends the thread after the tick under way. Idempotent.
    func stop() {
        stopping.signal()
        thread.withLock { thread in
            thread?.join()
            thread = nil
        }
    }
}
