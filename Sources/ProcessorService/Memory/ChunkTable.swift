import Wire

/// The remote chunks of one program, with a reference count per page slot: fork shares slots, and a slot with more than one
/// reference is never overwritten.
///
/// Owned by the program's monitor thread. Chunks are named by index; an index is reused after its chunk was given up.
struct ChunkTable: ~Copyable {
    /// One chunk of a memory component.
    struct Record {
        /// The chunk's number at its component.
        var number: UInt32 = 0
        /// Index of the component in the program's store; `noComponent` while the record is free.
        var component: UInt16 = ChunkTable.noComponent
        /// Slots in use.
        var live: UInt16 = 0
        /// The 64 KiB block of address space (page / 16) that the chunk was taken for.
        var block: UInt64 = 0
        var references = InlineArray<16, UInt32>(repeating: 0)
    }

    static let noComponent = UInt16.max

    private var records: UnsafeMutablePointer<Record>
    private var capacity = 1024
    private var used = 0
    private var free: [UInt32] = []

    init() {
        records = .allocate(capacity: capacity)
        records.initialize(repeating: Record(), count: capacity)
    }

    deinit { records.deallocate() }

    /// Enters a chunk without references; answers its index.
    mutating func add(number: UInt32, component: UInt16, block: UInt64) -> Int {
        let index: Int
        if let reused = free.popLast() {
            index = Int(reused)
        } else {
            if used == capacity { grow() }
            index = used
            used += 1
        }
        records[index] = Record(number: number, component: component, block: block)
        return index
    }

    private mutating func grow() {
        let larger = UnsafeMutablePointer<Record>.allocate(capacity: capacity * 2)
        larger.moveInitialize(from: records, count: capacity)
        (larger + capacity).initialize(repeating: Record(), count: capacity)
        records.deallocate()
        records = larger
        capacity *= 2
    }

    /// Takes out a chunk that has no live slot.
    mutating func remove(_ index: Int) {
        records[index] = Record()
        free.append(UInt32(index))
    }

    @inline(__always)
    subscript(_ index: Int) -> UnsafeMutablePointer<Record> { records + index }

    /// Whether `index` is a living chunk that was taken for `block`: indexes remembered in page tables can be old.
    @inline(__always)
    func isFor(_ block: UInt64, _ index: Int) -> Bool {
        index < used && records[index].component != Self.noComponent && records[index].block == block
    }

    /// Where a slot's page lies in its component's pool, in bytes.
    @inline(__always)
    func offset(_ index: Int, slot: Int) -> UInt64 {
        UInt64(records[index].number) * UInt64(RemoteChunk.bytes) + UInt64(slot) * 4096
    }
}
