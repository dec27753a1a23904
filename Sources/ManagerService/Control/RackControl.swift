import Kernel
import Lite
import Logging
import Synchronization
import Wire

/// The global resource manager's mind: who is in the rack, what runs where, and what follows when somebody is lost.
///
/// Three kinds of threads come here: Lite's workers (calls of components), the pools' threads (HTTP requests; what
/// follows a loss) and the ticker. Changes that must survive are in the store before anybody is told of them, and
/// before memory shows them.
///
/// Lock order: `state` is a leaf. No store, no call and no continuation is touched under it.
final class RackControl: Sendable {
    struct State {
        var membership: Membership
        var running = RunningPrograms()
        var endedTotals = MemoryTotals()
    }

    let node: RackNode
    let configuration: ManagerConfiguration
    let store: ManagerStore
    /// For requests of users. A start may hold a thread for seconds.
    let pool: WorkerPool
    /// For what follows a loss or a report: never behind a user's request, never refused.
    let reactions: WorkerPool
    let logger: Logger
    let waiters = EndWaiters()
    let events = RackEvents()
    let state: Mutex<State>
    /// Monotonic nanoseconds; injected, so that tests need not wait.
    let now: @Sendable () -> UInt64

    /// How long a call that only passes a message on may take.
    static let callLimit = Duration.seconds(2)

    /// Takes up what an earlier manager process left in the store.
    init(
        node: RackNode, configuration: ManagerConfiguration, store: ManagerStore, pool: WorkerPool,
        reactions: WorkerPool, logger: Logger,
        now: @escaping @Sendable () -> UInt64 = monotonicNanoseconds
    ) throws(ManagerStore.Failure) {
        self.node = node
        self.configuration = configuration
        self.store = store
        self.pool = pool
        self.reactions = reactions
        self.logger = logger
        self.now = now
        let (components, epoch) = try store.components()
        var state = State(membership: Membership(lease: configuration.lease.wholeNanoseconds, epoch: epoch))
        state.membership.restore(components, now: now(), grace: configuration.recoveryGrace.wholeNanoseconds)
        let running = try store.runningPrograms()
        for record in running { state.running[record.id] = RunningPrograms.Entry(record: record) }
        self.state = Mutex(state)
        if !components.isEmpty {
            logger.info(
                "took up an earlier state",
                metadata: ["components": "\(components.count)", "programs": "\(running.count)"])
        }
    }

    /// Moves time on: looks for leases that are over, for programs that nobody has reported and for programs without a
    /// processor. Called by the ticker; `late` nanoseconds late, in which nobody can have been heard.
    func tick(late: UInt64 = 0) {
        let time = now()
        let grace = configuration.recoveryGrace.wholeNanoseconds
        let (lost, epoch, unreported, orphans) = state.withLock { state in
            if late > 0 { state.membership.postpone(by: late) }
            let lost = state.membership.expire(now: time)
            let membership = state.membership
            let orphans = state.running.orphans(now: time, again: Self.retry_ns) {
                membership.component(of: $0)?.health ?? .lost != .lost
            }
            return (lost, membership.epoch, state.running.due(now: time, again: grace), orphans)
        }
        if late > 0 {
            logger.notice("stood still for a while: leases are longer by that", metadata: ["ms": "\(late / 1_000_000)"])
        }
        if !lost.isEmpty { reactions.submit { self.handleLoss(of: lost, epoch: epoch) } }
        for record in unreported { reactions.submit { self.askAfter(record) } }
        if !orphans.isEmpty { reactions.submit { self.endOrphans(orphans) } }
    }

    /// How long a failed attempt to record the end of programs rests.
    private static let retry_ns: UInt64 = 1_000_000_000

    /// Ends programs whose processor is lost, or was replaced while no manager ran.
    func endOrphans(_ records: [ProgramRecord]) {
        end(records.map { ($0, .lost("processor component \($0.processor) was lost"), $0.statistics) })
    }
}

extension Duration {
    /// At least 0.
    var wholeNanoseconds: UInt64 {
        let (seconds, attoseconds) = components
        return UInt64(max(0, seconds)) * 1_000_000_000 + UInt64(max(0, attoseconds)) / 1_000_000_000
    }
}
