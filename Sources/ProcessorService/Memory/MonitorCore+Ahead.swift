import CAgent
import CLinux
import Glibc
import Kernel

/// Eviction ahead of need: a batch is on its way while the program runs. Its pages are marked `leaving`; whatever else is
/// about to be done with them waits for it.
extension MonitorCore {
    /// What the monitor knows of its background evictor.
    struct Ahead {
        let evictor: BackgroundEvictor
        /// The processor that its thread keeps off; -1: none, -2: never said.
        var avoids: Int32 = -2
        /// Batches, and how long the monitor waited for them, since the last review.
        var batches = 0
        var waited_ns: UInt64 = 0
        var notBefore = Deadline(nanoseconds: 0)
        /// How long the next pause is. Doubles while one follows the other.
        var pause = MonitorCore.aheadPause_min
        /// The monitor waits for the batch; what has happened meanwhile is followed when that has been settled.
        var isAwaited = false
    }

    /// Fewer local pages than this are evicted when room is needed.
    static let aheadLimitPages_min = 512
    private static let batchesPerReview = 16
    /// Where batches are waited for, the other processors are busy.
    private static let waitedMean_max_ns: UInt64 = 30_000
    /// A burst, as of a program that fills its memory, is over soon; other programs stay.
    private static let aheadPause_min: Duration = .milliseconds(4)
    private static let aheadPause_max: Duration = .milliseconds(256)
    /// Pauses of some 50 ns for which a batch is polled for.
    private static let aheadSpins = 2_000

    /// Has the oldest pages leave in the background. Does nothing where that does not pay.
    func evictAhead() {
        if ahead.evictor.isBusy || isAgentBusy || hasFailed || limitPages < Self.aheadLimitPages_min { return }
        if ahead.batches >= Self.batchesPerReview { reviewAhead() }
        if !ahead.notBefore.hasPassed { return }
        for space in spaces { space?.isStuck = false }
        guard let space = oldest(), let agent = space.agent, agent.evictor != 0, bindEvictor(agent) else { return }
        let batch = ahead.evictor.batch
        guard pickVictims(batch, space, batchPages) else { return }
        if batch.needsMonitor { return carryOut(batch, space, agent) }
        for index in 0..<batch.count { space.table.entry(batch.pages[index]).pointee.set(PageEntry.leaving) }
        ahead.batches += 1
        ProgramCounters.add(counters.batchesAhead)
        ahead.evictor.submit()
    }

    private func reviewAhead() {
        if ahead.waited_ns / UInt64(ahead.batches) > Self.waitedMean_max_ns {
            ahead.notBefore = .after(ahead.pause)
            ahead.pause = min(ahead.pause * 2, Self.aheadPause_max)
        } else {
            ahead.pause = Self.aheadPause_min
        }
        (ahead.batches, ahead.waited_ns) = (0, 0)
    }

    /// Keeps the evictor's threads off the processor that the program is served on. False where there is no other.
    private func bindEvictor(_ agent: Agent) -> Bool {
        let avoided = colocation.isActive ? colocation.processor : -1
        if ahead.avoids == avoided && agent.evictorAvoids == avoided { return true }
        if !ahead.evictor.start(name: "evictor\(program)") || ahead.evictor.threadNumber == 0 { return false }
        var mask = colocation.monitorMask
        if mask.reduce(0, { $0 + $1.nonzeroBitCount }) < 2 { return false }
        if avoided >= 0 { mask[Int(avoided) >> 6] &= ~(1 << UInt64(avoided & 63)) }
        _ = lego_thread_set_affinity(ahead.evictor.threadNumber, mask, Colocation.words)
        _ = lego_thread_set_affinity(agent.evictor, mask, Colocation.words)
        ahead.avoids = avoided
        agent.evictorAvoids = avoided
        return true
    }

    /// Waits for the batch that is out, if there is one, and settles it.
    func awaitAhead() {
        if !ahead.evictor.isBusy || ahead.isAwaited { return }
        ahead.isAwaited = true
        let start = monotonicNanoseconds()
        var spins = Self.aheadSpins
        while !ahead.evictor.wait(spins: spins, nanoseconds: 1_000_000) {
            spins = 0
            guard let space = ahead.evictor.batch.space, let agent = ahead.evictor.batch.agent else { continue }
            serveEventsOnly(space)
            serveAgentsFaults(space, agent)
        }
        let waited_ns = monotonicNanoseconds() &- start
        ahead.isAwaited = false
        ahead.waited_ns &+= waited_ns
        ProgramCounters.add(counters.waitedAhead, Int(waited_ns / 1000))
        settleAhead()
    }

    /// Waits if the batch that is out is of that address space.
    func awaitAhead(of space: AddressSpace) {
        if ahead.evictor.isBusy && ahead.evictor.batch.space === space { awaitAhead() }
    }

    /// Draws the consequences of the batch that was out.
    func settleAhead() {
        ahead.evictor.settle()
        let batch = ahead.evictor.batch
        if !batch.isAnswered, let space = batch.space, let agent = batch.agent, space.agent === agent {
            dropAgent(of: space)
        }
        settle(batch)
        if !isAgentBusy { followForks() }
    }

    /// Serves faults of the agent itself, which it takes on pages that the kernel dropped in a way that is not trapped:
    /// they read as zeros.
    func serveAgentsFaults(_ space: AddressSpace, _ agent: Agent) {
        if space.deferred.isEmpty || space.isDead { return }
        let waiting = space.deferred
        space.deferred.removeAll(keepingCapacity: true)
        for message in waiting {
            if message.is_write_protect == 0 && agent.isThread(numbered: message.thread) {
                let address = Page.address(Page.number(message.address))
                if lego_uffd_copy(space.userfault.raw, address, zeros, Page.bytes, 0) < 0 {
                    lego_uffd_wake(space.userfault.raw, address, Page.bytes)
                }
            } else {
                space.deferred.append(message)
            }
        }
    }
}
