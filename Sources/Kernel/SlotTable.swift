/// Plain entries under 64-bit handles that may be given to somebody who is not trusted: slot number in the low half, in
/// the high half a generation that is never zero and changes with every reuse, so that an old or invented handle is
/// refused. Entries never move. Not safe by itself: its owner's lock guards it.
public struct SlotTable<Entry: BitwiseCopyable>: ~Copyable {
    private struct Slot {
        var generation: UInt32
        /// Next free slot when free; `live` when taken.
        var next: UInt32
        var entry: Entry
    }
    private static var slotsPerChunk: Int { 1024 }
    private static var live: UInt32 { .max }
    private static var none: UInt32 { .max - 1 }

    private let chunks: UnsafeMutablePointer<UnsafeMutablePointer<Slot>?>
    private let chunks_max: Int
    private let blank: Entry
    /// Slots that were ever taken; those beyond are not initialised.
    private var used = 0
    private var free: UInt32 = Self.none
    /// Random, so that handles of one daemon's life are not taken for those of the next.
    private let firstGeneration = UInt32.random(in: 1...UInt32.max / 2)
    /// Entries now.
    public private(set) var count = 0

    /// A table of at most `capacity_max` entries, rounded up to a thousand; memory is taken as it grows. `blank` fills
    /// free slots.
    public init(capacity_max: Int, blank: Entry) {
        chunks_max = (capacity_max + Self.slotsPerChunk - 1) / Self.slotsPerChunk
        chunks = .allocate(capacity: chunks_max)
        chunks.initialize(repeating: nil, count: chunks_max)
        self.blank = blank
    }

    deinit {
        for chunk in 0..<chunks_max { chunks[chunk]?.deallocate() }
        chunks.deallocate()
    }

    private func slot(_ index: Int) -> UnsafeMutablePointer<Slot> {
        // Indexes below `used` lie in chunks that exist.
        chunks[index / Self.slotsPerChunk].unsafelyUnwrapped + index % Self.slotsPerChunk
    }

    /// Stores an entry; answers its handle, or nil when the table is full. Cost: some ten nanoseconds.
    public mutating func insert(_ entry: Entry) -> UInt64? {
        let index: UInt32
        if free != Self.none {
            index = free
            free = slot(Int(index)).pointee.next
        } else {
            if used == chunks_max * Self.slotsPerChunk { return nil }
            let chunk = used / Self.slotsPerChunk
            if chunks[chunk] == nil { chunks[chunk] = .allocate(capacity: Self.slotsPerChunk) }
            index = UInt32(used)
            used += 1
            slot(Int(index)).initialize(to: Slot(generation: firstGeneration, next: 0, entry: blank))
        }
        let place = slot(Int(index))
        place.pointee.next = Self.live
        place.pointee.entry = entry
        count += 1
        return UInt64(place.pointee.generation) << 32 | UInt64(index)
    }

    /// The entry of a handle, valid until it is removed; nil for a handle that is not in use.
    public func pointer(_ handle: UInt64) -> UnsafeMutablePointer<Entry>? {
        let index = Int(UInt32(truncatingIfNeeded: handle))
        guard index < used else { return nil }
        let place = slot(index)
        guard place.pointee.next == Self.live, place.pointee.generation == UInt32(truncatingIfNeeded: handle >> 32)
        else { return nil }
        // The entry follows the two words that head a slot, at its own alignment.
        let alignment = MemoryLayout<Entry>.alignment
        return UnsafeMutableRawPointer(place).advanced(by: (8 + alignment - 1) & ~(alignment - 1))
            .assumingMemoryBound(to: Entry.self)
    }

    /// Frees the slot of a handle in use; any other handle is ignored.
    public mutating func remove(_ handle: UInt64) {
        guard pointer(handle) != nil else { return }
        let index = UInt32(truncatingIfNeeded: handle)
        let place = slot(Int(index))
        place.pointee.entry = blank
        place.pointee.generation = place.pointee.generation == .max ? 1 : place.pointee.generation + 1
        place.pointee.next = free
        free = index
        count -= 1
    }

    /// Visits every entry in use. `body` may change the entry but not the table.
    public func forEach(_ body: (UInt64, UnsafeMutablePointer<Entry>) -> Void) {
        for index in 0..<used {
            let handle = UInt64(slot(index).pointee.generation) << 32 | UInt64(index)
            if let entry = pointer(handle) { body(handle, entry) }
        }
    }
}
