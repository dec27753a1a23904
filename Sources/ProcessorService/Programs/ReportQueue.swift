import Glibc
import Kernel
import Logging
import Synchronization
import Wire

/// Tells the manager how programs ended, each until the manager has taken it. One thread of its own, so that a manager
/// that is away holds up no program.
///
/// Lock order: `state` is a leaf.
final class ReportQueue: Sendable {
    private struct State {
        /// In the order of the ends. Bounded by the number of programs that the manager can start while it is there.
        var waiting: [ProcessorManagerReport] = []
        var isStopping = false
    }

    /// The pause after a report that the manager did not take.
    private static let retryPause = Duration.milliseconds(250)

    private let send: @Sendable (ProcessorManagerReport) -> Bool
    private let acknowledged: @Sendable (ProgramID) -> Void
    private let state = Mutex(State())
    private let wake: EventDescriptor
    private let thread = Mutex<KernelThread?>(nil)

    /// `send` answers whether the manager took the report; it has a deadline of its own.
    init(
        send: @escaping @Sendable (ProcessorManagerReport) -> Bool,
        acknowledged: @escaping @Sendable (ProgramID) -> Void
    ) throws(KernelError) {
        self.send = send
        self.acknowledged = acknowledged
        wake = try EventDescriptor()
    }

    func start() throws(KernelError) {
        let thread = try KernelThread(name: "lego-report") { [self] in run() }
        self.thread.withLock { $0 = thread }
    }

    /// Any thread; returns at once.
    func add(_ report: ProcessorManagerReport) {
        state.withLock { $0.waiting.append(report) }
        wake.signal()
    }

    /// Tries everything that waits once more, and ends the thread.
    func stop() {
        state.withLock { $0.isStopping = true }
        wake.signal()
        thread.join()
    }

    private func run() {
        while true {
            let (next, isStopping) = state.withLock { ($0.waiting.first, $0.isStopping) }
            guard let next else {
                if isStopping { return }
                pause(until: .never)
                continue
            }
            if send(next) {
                state.withLock { _ = $0.waiting.removeFirst() }
                acknowledged(next.program)
            } else if isStopping {
                return
            } else {
                pause(until: .after(Self.retryPause))
            }
        }
    }

    private func pause(until deadline: Deadline) {
        var waited = pollfd(fd: wake.raw, events: Int16(POLLIN), revents: 0)
        poll(&waited, 1, deadline.pollMilliseconds)
        wake.drain()
    }
}
