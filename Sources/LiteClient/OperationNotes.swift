import CLite
import Kernel

/// What is remembered of an asynchronous operation until it is waited for.
struct OperationNote {
    var ticket = Ticket(slot: 0, data: 0, blocks: 0)
    /// Where the bytes of a read go.
    var target: UnsafeMutableRawPointer?
    var count = 0
    /// Tells the operations of a slot apart; 0 in a slot that has none.
    var generation: UInt64 = 0
}

/// The notes of a channel's slots. Safe on any thread: `lock` is a leaf.
final class OperationNotes: @unchecked Sendable {
    private let lock = AdaptiveLock()
    // Protected by `lock`.
    private let notes: UnsafeMutablePointer<OperationNote>
    private var generation: UInt64 = 0

    init() {
        notes = .allocate(capacity: Int(LITE_SLOTS))
        notes.initialize(repeating: OperationNote(), count: Int(LITE_SLOTS))
    }

    deinit { notes.deallocate() }

    /// Remembers an operation; answers its generation.
    func note(_ ticket: Ticket, target: UnsafeMutableRawPointer?, count: Int) -> UInt64 {
        lock.lock()
        defer { lock.unlock() }
        generation += 1
        notes[ticket.slot] = OperationNote(ticket: ticket, target: target, count: count, generation: generation)
        return generation
    }

    /// Completes the note with the ticket that was posted.
    func update(_ ticket: Ticket) {
        lock.lock()
        notes[ticket.slot].ticket = ticket
        lock.unlock()
    }

    /// The ticket of an operation; nil when it has been waited for.
    func ticket(_ slot: Int, _ generation: UInt64) -> Ticket? {
        lock.lock()
        defer { lock.unlock() }
        return generation != 0 && notes[slot].generation == generation ? notes[slot].ticket : nil
    }

    /// Takes the note out; nil when somebody else did.
    func claim(_ slot: Int, _ generation: UInt64) -> OperationNote? {
        lock.lock()
        defer { lock.unlock() }
        if generation == 0 || notes[slot].generation != generation { return nil }
        defer { notes[slot].generation = 0 }
        return notes[slot]
    }
}
