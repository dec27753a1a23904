import CLinux
import Glibc
import Kernel
import Synchronization

/// Keeps the threads that fault, the monitor and the agent on one processor while that pays: a fault then costs two
/// context switches instead of two wake-ups of an idle processor.
///
/// With one thread it always pays. With several the threads take turns, and what they compute between their faults adds
/// up: `pays` says how much of it is too much (test and figures: docs/PERFORMANCE.md).
///
/// A thread's own affinity is given back when it faults no more, when another one does beside it, when faults become
/// rare, and before any call that would show it or hand it to a child. Owned by the monitor thread.
struct Colocation {
    /// How often an active co-location is looked at.
    static let review: Duration = .milliseconds(50)
    /// Fewer faults than this between two reviews are not worth it.
    static let faultsPerReview_min: UInt64 = 40
    /// Calls of one thread in a row after which it begins.
    static let calls_min = 48
    /// How far calls of other threads may outweigh: each counts eight, each of the thread's own takes one off.
    static let strangers_max = 64
    /// How long none begins after strangers ended one.
    static let pause: Duration = .milliseconds(100)
    /// Processors that a mask can hold.
    static let words = 16
    /// What serving a fault on the thread's own processor takes, and what two wake-ups take beside it (measured:
    /// docs/PERFORMANCE.md).
    private static let service_ns: Int64 = 7_000
    private static let wakeUps_ns: Int64 = 35_000

    /// A thread that is held, and where it may run by itself.
    struct Held {
        /// As the kernel numbers it in the program's pid namespace.
        var number: Int32
        /// In the processor's.
        var thread: Int32
        var mask: [UInt64]
        /// It has faulted since the last review.
        var isSeen = true
    }

    /// The thread that made the last trapped call, in the processor's pid namespace, and how often in a row.
    var caller: Int32 = 0
    var callsInRow = 0
    /// Trapped calls of the held thread.
    var calls: UInt64 = 0
    var strangers = 0
    var notBefore = Deadline(nanoseconds: 0)
    var tally = FaultTally()
    /// Processor time of the processes that fault, when it was looked at last; and the faults and processes of then.
    var processTime_ns: Int64 = 0
    var processTimeFaults: UInt64 = 0
    var processTimeOwner: UInt64 = 0

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
    var held: [Held] = []
    var processor: Int32 = 0
    var nextReview = Deadline.never
    var faultsAtReview: UInt64 = 0
    /// What the monitor may run on by itself.
    var monitorMask = [UInt64](repeating: 0, count: words)

    func isHeld(numbered number: Int32) -> Bool { held.contains { $0.number == number } }

    static func mask(of processor: Int32) -> [UInt64] {
        var mask = [UInt64](repeating: 0, count: words)
        mask[Int(processor) >> 6] = 1 << UInt64(processor & 63)
        return mask
    }

    /// Whether `threads` threads that compute for `compute_ns` from one fault to the next get on faster in turn on one
    /// processor than side by side, each waiting for its wake-ups. What holds stays so for a while.
    static func pays(threads: Int, compute_ns: Int64, isHeld: Bool) -> Bool {
        let inTurn = (compute_ns + service_ns) * Int64(threads)
        let apart = compute_ns + service_ns + wakeUps_ns
        return isHeld ? inTurn < apart * 5 / 4 : inTurn < apart
    }
}

/// Which threads the last faults came from. No allocation; a note is one comparison when one thread faults.
struct FaultTally {
    /// Faults after which it is looked at.
    static let window = 64
    static let threads_max = 4

    struct Entry {
        var number: Int32 = 0
        var slot = -1
        var count = 0
    }

    /// The first `used`, those of the threads that were seen first.
    private(set) var entries = InlineArray<4, Entry>(repeating: Entry())
    private(set) var used = 0
    private(set) var total = 0

    /// A fault of a thread, as its program numbers it, of the address space in that slot. Answers whether the window is
    /// full.
    @inline(__always)
    mutating func note(_ number: Int32, slot: Int) -> Bool {
        total += 1
        for index in 0..<used where entries[index].number == number && entries[index].slot == slot {
            entries[index].count += 1
            return total >= Self.window
        }
        if used < Self.threads_max {
            entries[used] = Entry(number: number, slot: slot, count: 1)
            used += 1
        }
        return total >= Self.window
    }

    /// Leaves those threads that made more than a sixteenth of the faults. False where the others made more than an
    /// eighth of them.
    mutating func keepFrequent() -> Bool {
        var kept = 0
        var faults = 0
        for index in 0..<used where entries[index].count * 16 > total {
            entries[kept] = entries[index]
            faults += entries[index].count
            kept += 1
        }
        used = kept
        return faults * 8 >= total * 7
    }

    mutating func clear() { (used, total) = (0, 0) }
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

    /// Notes a fault. O(1) except when a window of faults is full.
    @inline(__always)
    func colocate(_ space: AddressSpace, thread: Int32) {
        if colocation.tally.note(thread, slot: space.slot) { reviewFaults() }
    }

    /// A window of faults is full: holds those threads that they came from, or lets all go.
    private func reviewFaults() {
        defer { colocation.tally.clear() }
        let areFew = colocation.tally.keepFrequent()
        let isHeld = colocation.isActive && !colocation.isForCalls
        if areFew && paysInTurn(isHeld: isHeld) {
            if isHeld || colocation.notBefore.hasPassed { holdFrequent() }
        } else if colocation.isActive {
            endColocation()
            colocation.notBefore = .after(Colocation.pause)
        }
    }

    /// Whether the threads of the window are to be held, with those that are held already. One always is; else what they
    /// compute between their faults decides: the processor time of their processes, since the last window but some. False
    /// when that is not known yet.
    private func paysInTurn(isHeld: Bool) -> Bool {
        var threads = isHeld ? colocation.held.count : 0
        for index in 0..<colocation.tally.used
        where !isHeld || !colocation.isHeld(numbered: colocation.tally.entries[index].number) { threads += 1 }
        if threads == 1 { return true }
        var now: Int64 = 0
        var owner: UInt64 = 0
        for index in 0..<colocation.tally.used {
            let slot = colocation.tally.entries[index].slot
            if owner >> UInt64(slot & 63) & 1 != 0 { continue }
            owner |= 1 << UInt64(slot & 63)
            guard let user = spaces[slot]?.users.first else { return false }
            now += max(0, lego_process_time(user.process))
        }
        let faults = counters.faults.load(ordering: .relaxed)
        let passed = Int64(clamping: faults &- colocation.processTimeFaults)
        let isKnown = owner == colocation.processTimeOwner && passed <= 4 * Int64(FaultTally.window)
        let compute = isKnown ? max(0, now - colocation.processTime_ns) / max(1, passed) : 0
        (colocation.processTime_ns, colocation.processTimeFaults, colocation.processTimeOwner) = (now, faults, owner)
        if !isKnown { return isHeld }
        return Colocation.pays(threads: threads, compute_ns: compute, isHeld: isHeld)
    }

    /// Holds the threads of the window, beside those that are held already.
    private func holdFrequent() {
        let tally = colocation.tally
        if colocation.isForCalls {
            if tally.used == 1 && colocation.isHeld(numbered: tally.entries[0].number) { return }
            endColocation()
        }
        for index in 0..<tally.used {
            let entry = tally.entries[index]
            if let known = colocation.held.firstIndex(where: { $0.number == entry.number }) {
                colocation.held[known].isSeen = true
            } else if let space = spaces[entry.slot], let thread = hostThread(space, entry.number) {
                hold(thread, numbered: entry.number)
            }
        }
    }

    /// Lets those held threads run where they may by themselves that `isGone` says.
    private func letGo(_ isGone: (Colocation.Held) -> Bool) {
        colocation.held.removeAll { held in
            if !isGone(held) { return false }
            _ = lego_thread_set_affinity(held.thread, held.mask, Colocation.words)
            return true
        }
    }

    /// Holds one thread, beside those that are held already. The first one decides where.
    private func hold(_ thread: Int32, numbered number: Int32) {
        var allowed = [UInt64](repeating: 0, count: Colocation.words)
        if lego_thread_get_affinity(thread, &allowed, Colocation.words) < 0 { return }
        let isFirst = !colocation.isActive
        if isFirst {
            guard let current = ProcessFiles.lastProcessor(ofThread: thread) else { return }
            colocation.processor = cache.processors.take(preferred: current, allowed: allowed)
        } else if allowed[Int(colocation.processor) >> 6] >> UInt64(colocation.processor & 63) & 1 == 0 {
            // The program has said that it shall run elsewhere.
            return
        }
        let mask = Colocation.mask(of: colocation.processor)
        if lego_thread_set_affinity(thread, mask, Colocation.words) < 0
            || isFirst && lego_thread_set_affinity(0, mask, Colocation.words) < 0
        {
            _ = lego_thread_set_affinity(thread, allowed, Colocation.words)
            if isFirst { cache.processors.giveBack(colocation.processor) }
            return
        }
        colocation.held.append(Colocation.Held(number: number, thread: thread, mask: allowed))
        if !isFirst { return }
        colocation.isActive = true
        colocation.strangers = 0
        colocation.nextReview = .after(Colocation.review)
        colocation.faultsAtReview = counters.faults.load(ordering: .relaxed) &+ colocation.calls
        ProgramCounters.add(counters.colocations)
    }

    /// A process has ended: its thread is held no more, so that another one can be.
    func stopHolding(_ process: Int32) {
        if !colocation.isActive || !colocation.held.contains(where: { $0.thread == process }) { return }
        colocation.held.removeAll { $0.thread == process }
        if colocation.held.isEmpty { endColocation() }
    }

    /// Notes a trapped call: a thread that makes many in a row is as well held where it is served.
    func colocateCaller(_ space: AddressSpace, _ thread: Int32) {
        if colocation.isActive {
            if colocation.held.contains(where: { $0.thread == thread }) {
                colocation.calls &+= 1
                if colocation.strangers > 0 { colocation.strangers -= 1 }
            } else {
                noteStranger()
            }
        } else if thread == colocation.caller {
            colocation.callsInRow += 1
            if colocation.callsInRow >= Colocation.calls_min {
                colocation.callsInRow = 0
                if !colocation.notBefore.hasPassed { return }
                guard let number = ProcessFiles.innermostNumber(thread) else { return }
                hold(thread, numbered: number)
                colocation.isForCalls = colocation.isActive
            }
        } else {
            colocation.caller = thread
            colocation.callsInRow = 0
        }
    }

    /// Holds the only thread of a new image from its first call on, unless another one is held; the reviews find out
    /// whether it shall stay so.
    func colocateNewImage(_ thread: Int32) {
        if colocation.isActive { return }
        guard let number = ProcessFiles.innermostNumber(thread) else { return }
        hold(thread, numbered: number)
    }

    private func noteStranger() {
        colocation.strangers += 8
        if colocation.strangers < Colocation.strangers_max { return }
        endColocation()
        colocation.notBefore = .after(Colocation.pause)
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

    /// Lets all threads run where they may by themselves.
    func endColocation() {
        if !colocation.isActive { return }
        colocation.isActive = false
        colocation.isForCalls = false
        letGo { _ in true }
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
        if colocation.isForCalls { return }
        letGo { !$0.isSeen }
        if colocation.held.isEmpty { return endColocation() }
        for index in colocation.held.indices { colocation.held[index].isSeen = false }
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
