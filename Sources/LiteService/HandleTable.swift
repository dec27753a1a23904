import CLinux
import CLite
import Glibc
import Kernel

/// What a handle of a program stands for. Half a cache line: as many of them as possible stay in the caches.
struct HandleEntry: BitwiseCopyable {
    enum Kind: UInt8 {
        case none = 0
        case region = 1
        case lock = 2
    }
    /// Never 0 in an entry that was used, and another with each use.
    fileprivate(set) var generation: UInt32 = 0
    var kind = Kind.none
    var rights: UInt8 = 0
    /// The region was freed: every operation answers `LITE_EGONE`.
    var isDead = false
    /// The program made the region: no grant to its user changes what it may.
    var isMaster = false
    /// Where the region begins, if it is whole and on this node.
    var local: UnsafeMutableRawPointer?
    /// In a free entry, the next free one.
    var bytes: UInt64 = 0
    /// A `Mapping` or a `LockReference`, retained by the entry.
    var object: UnsafeMutableRawPointer?

    /// Without a counted reference of its own.
    @inline(__always)
    var heldMapping: Unmanaged<Mapping>? {
        guard kind == .region, let object else { return nil }
        return Unmanaged<Mapping>.fromOpaque(object)
    }
    var mapping: Mapping? { heldMapping?.takeUnretainedValue() }
    var lock: LockReference? {
        guard kind == .lock, let object else { return nil }
        return Unmanaged<LockReference>.fromOpaque(object).takeUnretainedValue()
    }
}

/// The handles of a program: 64-bit numbers of an entry's place (low half) and its generation, so that an old or
/// invented one is refused. Entries never move. Memory is taken in chunks that double, the large ones of huge pages: a
/// program with a hundred thousand handles costs one more cache miss an operation, and no more misses in the TLB. Not
/// safe by itself: the session's lock guards it.
struct HandleTable: ~Copyable {
    private static var firstBits: Int { 10 }
    private static var chunks_max: Int { 11 }
    private static var hugePage: Int { 2 << 20 }
    private static var none: UInt64 { .max }
    /// Handles of a program.
    static var capacity: Int { (1 << chunks_max - 1) << firstBits }

    private let chunks: UnsafeMutablePointer<UnsafeMutablePointer<HandleEntry>?>
    /// Entries that were ever taken; those beyond are not initialised.
    private var used = 0
    private var free = Self.none
    /// Random, so that handles of one daemon's life are not taken for those of the next.
    private let firstGeneration = UInt32.random(in: 1...UInt32.max / 2)
    /// Handles now.
    private(set) var count = 0

    init() {
        chunks = .allocate(capacity: Self.chunks_max)
        chunks.initialize(repeating: nil, count: Self.chunks_max)
    }

    deinit {
        for chunk in 0..<Self.chunks_max { Glibc.free(chunks[chunk]) }
        chunks.deallocate()
    }

    /// Chunk `n` holds `1024 << n` entries.
    @inline(__always)
    private func place(_ index: Int) -> (chunk: Int, offset: Int) {
        let block = index >> Self.firstBits + 1
        let chunk = Int.bitWidth - 1 - block.leadingZeroBitCount
        return (chunk, index - (1 << chunk - 1) << Self.firstBits)
    }

    /// Indexes below `used` lie in chunks that exist.
    @inline(__always)
    private func entry(_ index: Int) -> UnsafeMutablePointer<HandleEntry> {
        let (chunk, offset) = place(index)
        return chunks[chunk].unsafelyUnwrapped + offset
    }

    private static func makeChunk(_ number: Int) -> UnsafeMutablePointer<HandleEntry>? {
        let bytes = MemoryLayout<HandleEntry>.stride << (firstBits + number)
        var memory: UnsafeMutableRawPointer?
        if posix_memalign(&memory, bytes >= hugePage ? hugePage : 4096, bytes) != 0 { return nil }
        // Without huge pages it works all the same.
        if bytes >= hugePage { madvise(memory, bytes, MADV_HUGEPAGE) }
        return memory?.bindMemory(to: HandleEntry.self, capacity: 1 << (firstBits + number))
    }

    /// Stores an entry; answers its handle, or nil when the table is full or the host out of memory.
    mutating func insert(_ new: HandleEntry) -> UInt64? {
        let index: Int
        if free != Self.none {
            index = Int(free)
            free = entry(index).pointee.bytes
        } else {
            if used == Self.capacity { return nil }
            let chunk = place(used).chunk
            if chunks[chunk] == nil { chunks[chunk] = Self.makeChunk(chunk) }
            if chunks[chunk] == nil { return nil }
            index = used
            used += 1
            entry(index).initialize(to: HandleEntry(generation: firstGeneration))
        }
        let place = entry(index)
        let generation = place.pointee.generation
        place.pointee = new
        place.pointee.generation = generation
        count += 1
        return UInt64(generation) << 32 | UInt64(index)
    }

    /// The entry of a handle, valid until it is removed; nil for a handle that is not in use.
    @inline(__always)
    func pointer(_ handle: UInt64) -> UnsafeMutablePointer<HandleEntry>? {
        let index = Int(UInt32(truncatingIfNeeded: handle))
        guard index < used else { return nil }
        let place = entry(index)
        guard place.pointee.generation == UInt32(truncatingIfNeeded: handle >> 32), place.pointee.kind != .none else {
            return nil
        }
        return place
    }

    /// Fetches the entry of a handle that will be looked at soon.
    @inline(__always)
    func prefetch(_ handle: UInt64) {
        let index = Int(UInt32(truncatingIfNeeded: handle))
        if index < used { lego_prefetch(entry(index)) }
    }

    /// Frees the entry of a handle in use; any other handle is ignored.
    mutating func remove(_ handle: UInt64) {
        guard let place = pointer(handle) else { return }
        let generation = place.pointee.generation
        place.pointee = HandleEntry(generation: generation == .max ? 1 : generation + 1)
        place.pointee.bytes = free
        free = UInt64(UInt32(truncatingIfNeeded: handle))
        count -= 1
    }

    /// Visits every entry in use. `body` may change the entry but not the table.
    func forEach(_ body: (UInt64, UnsafeMutablePointer<HandleEntry>) -> Void) {
        for index in 0..<used {
            let place = entry(index)
            if place.pointee.kind != .none { body(UInt64(place.pointee.generation) << 32 | UInt64(index), place) }
        }
    }
}
