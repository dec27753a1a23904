import CLinux
import Glibc
import Kernel
import Synchronization

/// Keeps the thread that faults, the monitor and the agent on one processor while the faults of a program come from one
/// thread: a fault then costs two context switches instead of two wake-ups of an idle processor.
///
/// The thread's own affinity is given back when another thread faults, when faults become rare, and before any call
/// that would show it or hand it to a child. Owned by the monitor thread.
struct Colocation {
    /// How often an active co-location is looked at.
    static let review: Duration = .milliseconds(50)
    /// Fewer faults than this between two reviews are not worth it.
    static let faultsPerReview_min: UInt64 = 40
    /// Faults of one thread in a row after which it begins.
    static let run_min = 48
    /// How far faults of other threads may outweigh: each counts eight, each of the thread's own takes one off.
    static let strangers_max = 64
    /// How long none begins after strangers ended one.
    static let pause: Duration = .milliseconds(100)
    /// Processors that a mask can hold.
    static let words = 16

    /// The thread that made the last trapped call, in the processor's pid namespace.
    var caller: Int32 = 0
    /// Trapped calls of the held thread.
    var calls: UInt64 = 0
    /// The thread that faulted last, as the kernel numbers it in the program's namespace, and how often in a row.
    var candidate: Int32 = 0
    var run = 0
    var strangers = 0
    var notBefore = Deadline(nanoseconds: 0)

    var isActive = false
    /// The thread is held for its trapped calls: the agent then polls on another processor, which answers a call in
    /// half the time, as long as that processor is idle. Faults are better served with the agent on the same one.
    var isForCalls = false
    /// Commands to a polling agent and what they took; when they take long, its processor is busy and polling does not
    /// pay.
    var polled = 0
    var polled_ns: UInt64 = 0
    var pollNotBefore = Deadline(nanoseconds: 0)
    static let polledPerReview = 32
    static let polledMean_max_ns: UInt64 = 12_000
    /// Pauses of some 50 ns for which the agent polls after a command, and the monitor for the answer.
    static let agentSpins: UInt32 = 600
    static let monitorSpins = 300
    /// The thread that is held, in the processor's pid namespace.
    var thread: Int32 = 0
    var processor: Int32 = 0
    var nextReview = Deadline.never
    var faultsAtReview: UInt64 = 0
    /// What the thread and the monitor may run on by themselves.
    var threadMask = [UInt64](repeating: 0, count: words)
    var monitorMask = [UInt64](repeating: 0, count: words)

    static func mask(of processor: Int32) -> [UInt64] {
        var mask = [UInt64](repeating: 0, count: words)
        mask[Int(processor) >> 6] = 1 << UInt64(processor & 63)
        return mask
    }
}

/// Which of the host's processors are taken by co-located programs, so that two of them do not meet on one while
/// another is idle. Any thread.
final class ProcessorClaims: Sendable {
    private let claims = Mutex([Int](repeating: 0, count: Colocation.words * 64))

    /// Takes `preferred`, or the least taken processor of the mask.
    func take(preferred: Int32, allowed: [UInt64]) -> Int32 {
        claims.withLock { claims in
            var best = preferred
            for word in allowed.indices {
                for bit in 0..<64 where allowed[word] >> UInt64(bit) & 1 != 0 {
                    let processor = Int32(word * 64 + bit)
                    if claims[Int(processor)] < claims[Int(best)] { best = processor }
                }
            }
            claims[Int(best)] += 1
            return best
        }
    }

    func giveBack(_ processor: Int32) { claims.withLock { $0[Int(processor)] -= 1 } }
}

extension MonitorCore {
    func startColocation() {
        _ = lego_thread_get_affinity(0, &colocation.monitorMask, Colocation.words)
    }

    /// Notes a fault. O(1) except when a co-location begins or ends.
    @inline(__always)
    func colocate(_ space: AddressSpace, thread: Int32) {
        if thread == colocation.candidate {
            colocation.run += 1
            if colocation.strangers > 0 { colocation.strangers -= 1 }
            if !colocation.isActive && colocation.run >= Colocation.run_min {
                colocation.run = 0
                if colocation.notBefore.hasPassed, let host = hostThread(space, thread) {
                    beginColocation(host, forCalls: false)
                }
            }
        } else {
            noteStranger(thread)
        }
    }

    private func noteStranger(_ thread: Int32) {
        if colocation.isActive {
            colocation.strangers += 8
            if colocation.strangers < Colocation.strangers_max { return }
            endColocation()
            colocation.notBefore = .after(Colocation.pause)
        }
        colocation.candidate = thread
        colocation.run = 0
    }

    private func beginColocation(_ thread: Int32, forCalls: Bool) {
        colocation.run = 0
        if !colocation.notBefore.hasPassed { return }
        var allowed = [UInt64](repeating: 0, count: Colocation.words)
        guard lego_thread_get_affinity(thread, &allowed, Colocation.words) == 0,
            let current = ProcessFiles.lastProcessor(ofThread: thread)
        else { return }
        let processor = cache.processors.take(preferred: current, allowed: allowed)
        let mask = Colocation.mask(of: processor)
        if lego_thread_set_affinity(thread, mask, Colocation.words) < 0
            || lego_thread_set_affinity(0, mask, Colocation.words) < 0
        {
            _ = lego_thread_set_affinity(thread, allowed, Colocation.words)
            cache.processors.giveBack(processor)
            return
        }
        colocation.isActive = true
        colocation.isForCalls = forCalls
        colocation.thread = thread
        colocation.processor = processor
        colocation.threadMask = allowed
        colocation.strangers = 0
        colocation.nextReview = .after(Colocation.review)
        colocation.faultsAtReview = counters.faults.load(ordering: .relaxed) &+ colocation.calls
        ProgramCounters.add(counters.colocations)
    }

    /// Notes a trapped call: a thread that makes many in a row is as well held where it is served.
    func colocateCaller(_ space: AddressSpace, _ thread: Int32) {
        if colocation.isActive {
            if thread == colocation.thread {
                colocation.calls &+= 1
                if colocation.strangers > 0 { colocation.strangers -= 1 }
            } else {
                noteStranger(0)
            }
        } else if thread == colocation.caller {
            colocation.run += 1
            if colocation.run >= Colocation.run_min { beginColocation(thread, forCalls: true) }
        } else {
            colocation.caller = thread
            colocation.run = 0
        }
    }

    /// The number in this pid namespace of a thread that the kernel named in the program's.
    private func hostThread(_ space: AddressSpace, _ number: Int32) -> Int32? {
        for user in space.users {
            if ProcessFiles.isNumbered(user.process, innermost: number) { return user.process }
            for thread in ProcessFiles.threads(user.process)
            where ProcessFiles.isNumbered(thread, innermost: number) { return thread }
        }
        return nil
    }

    /// Lets the thread run where it may by itself.
    func endColocation() {
        if !colocation.isActive { return }
        colocation.isActive = false
        _ = lego_thread_set_affinity(colocation.thread, colocation.threadMask, Colocation.words)
        _ = lego_thread_set_affinity(0, colocation.monitorMask, Colocation.words)
        cache.processors.giveBack(colocation.processor)
    }

    /// Ends a co-location that has become useless.
    func reviewColocation() {
        if !colocation.nextReview.hasPassed { return }
        let faults = counters.faults.load(ordering: .relaxed) &+ colocation.calls
        if faults &- colocation.faultsAtReview < Colocation.faultsPerReview_min { return endColocation() }
        colocation.faultsAtReview = faults
        colocation.nextReview = .after(Colocation.review)
    }

    /// Has the agent run where it answers soonest: where this thread runs, because waking another processor costs more
    /// than the work; or polling on another one while calls are dense. Answers for how many pauses to poll for it.
    func bindAgent(_ agent: Agent) -> Int {
        let isPolling = colocation.isActive && colocation.isForCalls && colocation.pollNotBefore.hasPassed
        let processor = colocation.isActive ? colocation.processor : -1
        let binding = isPolling ? Agent.Binding.beside(processor) : Agent.Binding.on(processor)
        if agent.binding != binding {
            agent.binding = binding
            var mask = processor < 0 || isPolling ? colocation.monitorMask : Colocation.mask(of: processor)
            if isPolling { mask[Int(processor) >> 6] &= ~(1 << UInt64(processor & 63)) }
            if !mask.contains(where: { $0 != 0 }) { mask = colocation.monitorMask }
            _ = lego_thread_set_affinity(agent.process, mask, Colocation.words)
            agent.calls.page.pointee.spins = isPolling ? Colocation.agentSpins : 0
        }
        return isPolling ? Colocation.monitorSpins : 0
    }

    /// Notes what a command to a polling agent took.
    func notePolled(_ nanoseconds: UInt64) {
        colocation.polled += 1
        colocation.polled_ns += nanoseconds
        if colocation.polled < Colocation.polledPerReview { return }
        if colocation.polled_ns / UInt64(colocation.polled) > Colocation.polledMean_max_ns {
            colocation.pollNotBefore = .after(.seconds(1))
        }
        (colocation.polled, colocation.polled_ns) = (0, 0)
    }
}
