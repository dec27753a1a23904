import CLinux
import CLite
import Kernel

/// An operation's place in a channel, from `ClientChannel.take` to `give`.
struct Ticket {
    var slot: Int
    /// Where its data lies in the channel, and the blocks that are taken for it (0: the slot's cell).
    var data: Int
    var blocks: UInt32
    /// The number of its submission; what a cancellation names.
    var sequence: UInt32 = 0
}

/// What the daemon answered.
struct Outcome {
    var status: Int32
    var value: UInt64 = 0
    var count: UInt64 = 0
    var node: UInt64 = 0
}

/// The program's end of a channel (`lite_channel.h`). Any number of threads share it: the lock is held while a slot is
/// taken and while a submission is written, never while waiting.
///
/// Cost of an operation that the daemon serves at once: no system call, two or three locked sections of some ten nanoseconds.
final class ClientChannel: @unchecked Sendable {
    private static let leastSpin_ns: UInt64 = 3000

    let base: UnsafeMutableRawPointer
    private let file: MemoryFile
    /// The session's connection, which the session closes.
    private let socket: Int32
    private let spin_ns: UInt64
    private let head: UnsafeMutablePointer<lite_channel_head>
    private let ring: UnsafeMutablePointer<lite_submission>
    private let completions: UnsafeMutablePointer<lite_completion>
    private let gauge = SpinGauge()
    /// The same for what other programs end: calls, requests, locks, barriers. Where those have no processor of their
    /// own, a program that spins keeps the very one from running that it waits for.
    private let gaugeOfOthers = SpinGauge()
    private let lock = AdaptiveLock()
    // Protected by `lock`.
    @exclusivity(unchecked) private var freeSlots: UInt64 = .max
    @exclusivity(unchecked) private var freeBlocks: UInt32 = .max
    @exclusivity(unchecked) private var sequence: UInt32 = 0
    @exclusivity(unchecked) private var takenSeen: UInt32 = 0
    /// The asynchronous operations under way.
    @exclusivity(unchecked) private var notes = OperationNotes()
    /// Threads that wait for a slot or blocks, and the futex word that changes with each that is given back.
    private let waiting: UnsafeMutablePointer<UInt32>
    private let returns: UnsafeMutablePointer<UInt32>

    init(file: MemoryFile, socket: Int32, spin: Duration) {
        self.file = file
        self.socket = socket
        base = file.base
        spin_ns = UInt64(max(0, spin.components.attoseconds / 1_000_000_000))
        head = base.assumingMemoryBound(to: lite_channel_head.self)
        ring = (base + Int(LITE_RING_OFFSET)).assumingMemoryBound(to: lite_submission.self)
        completions = (base + Int(LITE_COMPLETION_OFFSET)).assumingMemoryBound(to: lite_completion.self)
        waiting = .allocate(capacity: 2)
        waiting.initialize(repeating: 0, count: 2)
        returns = waiting + 1
    }

    deinit { waiting.deallocate() }

    // MARK: Slots

    /// A slot with room for `bytes` of data, at most `LITE_BLOCKS * LITE_BLOCK`. nil when there is none.
    @inline(__always)
    func take(bytes: Int) -> Ticket? {
        lock.lock()
        defer { lock.unlock() }
        return takeLocked(bytes: bytes)
    }

    @inline(__always)
    private func takeLocked(bytes: Int) -> Ticket? {
        if freeSlots == 0 { return nil }
        let slot = freeSlots.trailingZeroBitCount
        var ticket = Ticket(slot: slot, data: Int(LITE_CELL_OFFSET) + slot * Int(LITE_CELL), blocks: 0)
        if bytes > Int(LITE_CELL) {
            let count = (bytes + Int(LITE_BLOCK) - 1) / Int(LITE_BLOCK)
            guard let first = firstFreeBlocks(count) else { return nil }
            ticket.blocks = (count == 32 ? UInt32.max : 1 << UInt32(count) - 1) << UInt32(first)
            ticket.data = Int(LITE_BLOCK_OFFSET) + first * Int(LITE_BLOCK)
            freeBlocks &= ~ticket.blocks
        }
        freeSlots &= freeSlots - 1
        return ticket
    }

    /// The same, waiting for others to give theirs back; nil after a second.
    func takeWaiting(bytes: Int) -> Ticket? {
        if let ticket = take(bytes: bytes) { return ticket }
        let deadline = Deadline.after(.seconds(1))
        _ = lego_atomic_add_u32(waiting, 1)
        defer { _ = lego_atomic_add_u32(waiting, .max) }
        while true {
            let seen = lego_atomic_load_u32(returns)
            if let ticket = take(bytes: bytes) { return ticket }
            if deadline.hasPassed { return nil }
            Futex.wait(returns, while: seen, until: deadline)
        }
    }

    func give(_ ticket: Ticket) {
        lock.lock()
        freeSlots |= 1 << UInt64(ticket.slot)
        freeBlocks |= ticket.blocks
        lock.unlock()
        if lego_atomic_load_u32(waiting) != 0 {
            _ = lego_atomic_add_u32(returns, 1)
            Futex.wake(returns, count: .max)
        }
    }

    /// The lowest place of so many free blocks in a row.
    private func firstFreeBlocks(_ count: Int) -> Int? {
        let blocks_max = Int(LITE_BLOCKS)
        if count > blocks_max { return nil }
        let wanted: UInt32 = count == blocks_max ? .max : 1 << UInt32(count) - 1
        var first = 0
        while first + count <= blocks_max {
            let taken = ~freeBlocks & (wanted << UInt32(first))
            if taken == 0 { return first }
            first = 32 - taken.leadingZeroBitCount
        }
        return nil
    }

    // MARK: Operations

    /// Hands an operation to the daemon.
    @inline(__always)
    func post(_ submission: inout lite_submission, _ ticket: inout Ticket) {
        submission.slot = UInt16(truncatingIfNeeded: ticket.slot)
        ticket.sequence = write(&submission)
    }

    /// Writes a submission and wakes the daemon if it sleeps; answers its number.
    private func write(_ submission: inout lite_submission) -> UInt32 {
        lock.lock()
        let number = writeLocked(&submission)
        lock.unlock()
        wakeDaemon()
        return number
    }

    /// The daemon looks for submissions, or sleeps and is to be woken.
    @inline(__always)
    private func wakeDaemon() {
        lego_atomic_fence()
        if lego_atomic_load_u32(asleepWord) != 0 { ringDoorbell() }
    }

    /// Lets the lock go for a moment where the ring is full.
    @inline(__always)
    private func writeLocked(_ submission: inout lite_submission) -> UInt32 {
        while sequence &- takenSeen >= UInt32(LITE_RING) {
            takenSeen = lego_atomic_load_u32(takenWord)
            if sequence &- takenSeen < UInt32(LITE_RING) { break }
            // More cancellations than slots, and a daemon that is stopped: it is asked to look, which also paces this
            // loop.
            lock.unlock()
            ringDoorbell()
            lego_spin_pause()
            lock.lock()
        }
        let entry = ring + Int(sequence % UInt32(LITE_RING))
        sequence &+= 1
        let number = sequence
        submission.sequence = 0
        entry.pointee = submission
        lego_atomic_store_u32(UnsafeMutableRawPointer(entry).assumingMemoryBound(to: UInt32.self), number)
        return number
    }

    // MARK: Asynchronous operations

    /// Hands an operation to the daemon that somebody waits for later; answers its slot and generation, or nil where no slot is
    /// free. `room`: bytes of the channel that it needs; what `from` holds is copied there, and what the daemon has put there
    /// goes to `target` when it has been waited for. Without `room` the submission says where its data lies.
    @inline(__always)
    func begin(
        _ submission: inout lite_submission, room: Int, from: UnsafeRawPointer?, target: UnsafeMutableRawPointer?
    ) -> (slot: Int, generation: UInt64)? {
        lock.lock()
        guard var ticket = takeLocked(bytes: room) else {
            lock.unlock()
            return nil
        }
        if room > 0 { submission.data = UInt64(ticket.data) }
        if let from {
            // The slot is this thread's; the program's memory may have to be waited for.
            lock.unlock()
            (base + ticket.data).copyMemory(from: from, byteCount: room)
            lock.lock()
        }
        submission.slot = UInt16(truncatingIfNeeded: ticket.slot)
        ticket.sequence = writeLocked(&submission)
        let generation = notes.note(ticket, target: target, count: Int(submission.count))
        lock.unlock()
        wakeDaemon()
        return (ticket.slot, generation)
    }

    /// Takes an operation's note out, to wait for it; nil when somebody has.
    @inline(__always)
    func claim(_ slot: Int, _ generation: UInt64) -> OperationNote? {
        lock.lock()
        defer { lock.unlock() }
        return notes.claim(slot, generation)
    }

    /// The ticket of an operation; nil when it has been waited for.
    @inline(__always)
    func ticket(_ slot: Int, _ generation: UInt64) -> Ticket? {
        lock.lock()
        defer { lock.unlock() }
        return notes.ticket(slot, generation)
    }

    @inline(never)
    private func ringDoorbell() { ringLiteDoorbell(socket) }

    private var asleepWord: UnsafeMutablePointer<UInt32> {
        UnsafeMutableRawPointer(head).assumingMemoryBound(to: UInt32.self)
    }
    private var yieldsWord: UnsafeMutablePointer<UInt32> { asleepWord + 1 }
    private var takenWord: UnsafeMutablePointer<UInt32> { asleepWord + 16 }

    private func word(_ slot: Int) -> UnsafeMutablePointer<UInt32> {
        UnsafeMutableRawPointer(completions + slot).assumingMemoryBound(to: UInt32.self)
    }

    @inline(__always)
    func isDone(_ ticket: Ticket) -> Bool {
        lego_atomic_load_u32(word(ticket.slot)) == ticket.sequence
    }

    /// Waits for an operation. At the deadline it is withdrawn; it then ends all the same, with `LITE_ETIMEDOUT`
    /// unless it was over already. With `LITE_EDAEMON` when the daemon is gone, or does not do even that: the slot
    /// then is lost.
    @inline(__always)
    func wait(_ ticket: Ticket, until deadline: Deadline, copying bytes: Int = 0, forOthers: Bool = false) -> Outcome {
        if isDone(ticket) { return outcome(ticket) }
        if spin_ns > 0, lego_atomic_load_u32(yieldsWord) == 0 {
            if forOthers { return waitForOthers(ticket, until: deadline) }
            // Where spinning does not pay, still as long as sleeping and waking would cost.
            let isWorthIt = gauge.shouldSpin()
            let span = isWorthIt ? spin_ns : min(spin_ns, Self.leastSpin_ns)
            // Copying takes its time: some 4 GB/s where the bytes go from one processor's cache to another's.
            let limit = monotonicNanoseconds() &+ span &+ UInt64(bytes / 4)
            repeat {
                for _ in 0..<32 {
                    if isDone(ticket) {
                        gauge.succeed()
                        return outcome(ticket)
                    }
                    lego_spin_pause()
                }
            } while monotonicNanoseconds() < limit
            if isWorthIt { gauge.fail() }
        }
        return sleep(ticket, until: deadline)
    }

    @inline(never)
    private func waitForOthers(_ ticket: Ticket, until deadline: Deadline) -> Outcome {
        // As long as it takes the daemon to wake the other program, if that shares this processor: one that falls idle
        // in between is slow to wake up.
        let isWorthIt = gaugeOfOthers.shouldSpin()
        let limit = monotonicNanoseconds() &+ (isWorthIt ? spin_ns : min(spin_ns, Self.leastSpin_ns))
        repeat {
            for _ in 0..<32 {
                if isDone(ticket) {
                    gaugeOfOthers.succeed()
                    return outcome(ticket)
                }
                lego_spin_pause()
            }
        } while monotonicNanoseconds() < limit
        if isWorthIt { gaugeOfOthers.fail() }
        return sleep(ticket, until: deadline)
    }

    @inline(never)
    private func sleep(_ ticket: Ticket, until given: Deadline) -> Outcome {
        let state = word(ticket.slot)
        let sleeps = state + 15
        lego_atomic_store_u32(sleeps, 1)
        defer { lego_atomic_store_u32(sleeps, 0) }
        lego_atomic_fence()
        var deadline = given
        var isCancelled = false
        while true {
            let seen = lego_atomic_load_u32(state)
            if seen == ticket.sequence { return outcome(ticket) }
            // The daemon wakes a waiter; only its death is looked for.
            let look = Deadline.after(.milliseconds(200))
            Futex.wait(state, while: seen, until: min(look, deadline))
            if isDone(ticket) { return outcome(ticket) }
            if isLiteSocketClosed(socket) { return Outcome(status: LITE_EDAEMON.code) }
            if !deadline.hasPassed { continue }
            if isCancelled { return Outcome(status: LITE_EDAEMON.code) }
            isCancelled = true
            deadline = .after(.seconds(30))
            var cancel = lite_submission()
            cancel.opcode = UInt8(LITE_OP_CANCEL.rawValue)
            cancel.slot = UInt16(ticket.slot)
            cancel.operand = UInt64(ticket.sequence)
            _ = write(&cancel)
        }
    }

    @inline(__always)
    private func outcome(_ ticket: Ticket) -> Outcome {
        let completion = completions + ticket.slot
        return Outcome(
            status: completion.pointee.status, value: completion.pointee.value, count: completion.pointee.count,
            node: completion.pointee.node)
    }
}
