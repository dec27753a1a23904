import Wire

/// The remote chunks that one program has in use: where each lies and which of its 16 pages hold something. Several
/// address spaces may refer to one slot after a fork; what is in such a slot is never overwritten.
///
/// Owned by the monitor thread. O(1), grows by doubling.
struct ChunkTable: ~Copyable {
    struct Chunk {
        /// Which of the program's memory components, an index into `RemoteStore.memories`.
        var memory: UInt32
        /// The component's number for the chunk.
        var number: UInt32
        /// Slots in use.
        var used: UInt32
        /// Next free record, when this one is free.
        var nextFree: UInt32
        /// Page entries that refer to each slot.
        var references: InlineArray<16, UInt32>
    }
    static let none = UInt32.max

    private var chunks: UnsafeMutablePointer<Chunk>
    private var capacity: Int
    private var count = 0
    private var firstFree = ChunkTable.none

    init() {
        capacity = 256
        chunks = .allocate(capacity: capacity)
    }

    deinit { chunks.deallocate() }

    @inline(__always) subscript(index: UInt32) -> UnsafeMutablePointer<Chunk> { chunks + Int(index) }

    /// Takes a record for a chunk that was reserved. No slot is in use.
    mutating func add(memory: UInt32, number: UInt32) -> UInt32 {
        let fresh = Chunk(
            memory: memory, number: number, used: 0, nextFree: Self.none, references: .init(repeating: 0))
        if firstFree != Self.none {
            let index = firstFree
            firstFree = chunks[Int(index)].nextFree
            chunks[Int(index)] = fresh
            return index
        }
        if count == capacity {
            // What a page's entry can name.
            precondition(capacity <= 1 << 30, "more than 128 TiB of remote memory")
            let larger = UnsafeMutablePointer<Chunk>.allocate(capacity: capacity * 2)
            larger.moveInitialize(from: chunks, count: count)
            chunks.deallocate()
            chunks = larger
            capacity *= 2
        }
        (chunks + count).initialize(to: fresh)
        count += 1
        return UInt32(count - 1)
    }

    /// Adds a reference to a slot.
    @inline(__always)
    func retain(_ index: UInt32, _ slot: Int) {
        let chunk = chunks + Int(index)
        if chunk.pointee.references[slot] == 0 { chunk.pointee.used += 1 }
        chunk.pointee.references[slot] += 1
    }

    /// Takes a reference off a slot; answers whether the chunk is empty now. The caller then calls `remove`.
    @inline(__always)
    func release(_ index: UInt32, _ slot: Int) -> Bool {
        let chunk = chunks + Int(index)
        chunk.pointee.references[slot] -= 1
        if chunk.pointee.references[slot] == 0 { chunk.pointee.used -= 1 }
        return chunk.pointee.used == 0
    }

    /// Gives an empty chunk's record back.
    mutating func remove(_ index: UInt32) {
        chunks[Int(index)].nextFree = firstFree
        firstFree = index
    }
}
