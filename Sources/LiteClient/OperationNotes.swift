import CLite

/// What is remembered of an asynchronous operation until it is waited for.
struct OperationNote {
    var ticket = Ticket(slot: 0, data: 0, blocks: 0)
    /// Where the bytes of a read go.
    var target: UnsafeMutableRawPointer?
    var count = 0
    /// Tells the operations of a slot apart; 0 in a slot that has none.
    var generation: UInt64 = 0
}

/// The notes of a channel's slots. Not safe by itself: the channel's lock guards it.
struct OperationNotes: ~Copyable {
    private let notes: UnsafeMutablePointer<OperationNote>
    private var generation: UInt64 = 0

    init() {
        notes = .allocate(capacity: Int(LITE_SLOTS))
        notes.initialize(repeating: OperationNote(), count: Int(LITE_SLOTS))
    }

    deinit { notes.deallocate() }

    /// Remembers an operation that has been posted; answers its generation.
    @inline(__always)
    mutating func note(_ ticket: Ticket, target: UnsafeMutableRawPointer?, count: Int) -> UInt64 {
        generation += 1
        notes[ticket.slot] = OperationNote(ticket: ticket, target: target, count: count, generation: generation)
        return generation
    }

    /// The ticket of an operation; nil when it has been waited for.
    @inline(__always)
    func ticket(_ slot: Int, _ generation: UInt64) -> Ticket? {
        generation != 0 && notes[slot].generation == generation ? notes[slot].ticket : nil
    }

    /// Takes the note out; nil when somebody else did.
    @inline(__always)
    func claim(_ slot: Int, _ generation: UInt64) -> OperationNote? {
        if generation == 0 || notes[slot].generation != generation { return nil }
        defer { notes[slot].generation = 0 }
        return notes[slot]
    }
}
