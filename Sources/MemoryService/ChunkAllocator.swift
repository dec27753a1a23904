import Wire

/// Who holds a chunk: one program on one life of a processor.
struct ChunkOwner: Hashable, Sendable {
    var processor: NodeID
    var program: ProgramID
}

/// How a release ended; a refused one has changed nothing.
enum ChunkRelease: Equatable {
    case released
    /// A chunk number lies outside the pool.
    case outOfRange
    /// A chunk is free, belongs to somebody else, or is named twice.
    case notOwned
}

/// Which chunks of the pool are owned, and which of the free ones read as zero. A chunk is always in one of these
/// states:
///
///     cold (zero, no memory behind it) or warm (zero, memory present)
///       -> owned -> dirty (free, holds old bytes) -> taken (being zeroed by whoever took it) -> warm or cold
///
/// Only zero chunks are ever handed out. Every array is taken at start-up: some 5 bytes a chunk, 80 bytes per MiB of
/// pool. Not safe to share: its owner holds it behind a lock.
struct ChunkAllocator: ~Copyable {
    let chunkCount: Int
    private(set) var ownedCount = 0
    private(set) var warmCount = 0
    private(set) var dirtyCount = 0

    private var cold: Bitmap
    private var warm: Bitmap
    private var dirty: Bitmap
    /// Owner slot of each chunk; 0: none, `beingReleased`: named by the release under way.
    private var ownerOfChunk: [UInt32]

    private struct OwnerSlot {
        var owner: ChunkOwner
        var chunks = 0
    }
    /// Slot 0 is not used. Slots of owners without chunks are in `freeSlots`.
    private var slots: [OwnerSlot] = [
        OwnerSlot(owner: ChunkOwner(processor: .init(rawValue: 0), program: .init(rawValue: 0)))
    ]
    private var freeSlots: [UInt32] = []
    private var slotOfOwner: [ChunkOwner: UInt32] = [:]

    private static var beingReleased: UInt32 { .max }

    /// `warm`: all memory is present from the start.
    init(chunks: Int, warm isWarm: Bool = false) {
        chunkCount = chunks
        cold = Bitmap(count: chunks, filled: !isWarm)
        warm = Bitmap(count: chunks, filled: isWarm)
        warmCount = isWarm ? chunks : 0
        dirty = Bitmap(count: chunks, filled: false)
        ownerOfChunk = Array(repeating: 0, count: chunks)
    }

    /// Gives up to `count` zero chunks to `owner`, warm ones first, low numbers first; answers them, possibly none.
    /// Cost: some 10 ns a chunk, and in a nearly full pool one pass over the bitmaps (64 chunks a word).
    mutating func reserve(_ count: Int, for owner: ChunkOwner) -> [UInt32] {
        var taken: [UInt32] = []
        taken.reserveCapacity(min(count, chunkCount - ownedCount))
        warm.takeFirst(count, into: &taken)
        warmCount -= taken.count
        cold.takeFirst(count - taken.count, into: &taken)
        if taken.isEmpty { return taken }
        let slot = slot(of: owner)
        for chunk in taken { ownerOfChunk[Int(chunk)] = slot }
        slots[Int(slot)].chunks += taken.count
        ownedCount += taken.count
        return taken
    }

    /// Takes `chunks` from `owner`: all of them, or none when one is not `owner`'s.
    mutating func release(_ chunks: [UInt32], of owner: ChunkOwner) -> ChunkRelease {
        if chunks.contains(where: { $0 >= chunkCount }) { return .outOfRange }
        if chunks.isEmpty { return .released }
        guard let slot = slotOfOwner[owner] else { return .notOwned }
        for (index, chunk) in chunks.enumerated() {
            if ownerOfChunk[Int(chunk)] != slot {
                for marked in chunks[..<index] { ownerOfChunk[Int(marked)] = slot }
                return .notOwned
            }
            ownerOfChunk[Int(chunk)] = Self.beingReleased
        }
        for chunk in chunks { becomeDirty(Int(chunk)) }
        take(chunks.count, from: slot)
        return .released
    }

    /// Takes all chunks of every owner that `matches`; answers how many. One pass over the pool: 1 ms for 64 GiB.
    mutating func releaseAll(where matches: (ChunkOwner) -> Bool) -> Int {
        let leaving = slotOfOwner.filter { matches($0.key) }.map(\.value)
        if leaving.isEmpty { return 0 }
        var isLeaving = Array(repeating: false, count: slots.count)
        for slot in leaving { isLeaving[Int(slot)] = true }
        let before = ownedCount
        for chunk in 0..<chunkCount where ownerOfChunk[chunk] != 0 && isLeaving[Int(ownerOfChunk[chunk])] {
            becomeDirty(chunk)
        }
        for slot in leaving { take(slots[Int(slot)].chunks, from: slot) }
        return before - ownedCount
    }

    /// Takes a run of at most `limit` neighbouring dirty chunks, which nobody else touches until `putBack`; nil when
    /// there is none.
    mutating func takeDirty(atMost limit: Int) -> Range<Int>? {
        guard let run = dirty.takeRun(atMost: limit) else { return nil }
        dirtyCount -= run.count
        return run
    }

    /// Takes back a run that now reads as zero.
    mutating func putBack(_ run: Range<Int>, warm isWarm: Bool) {
        for chunk in run {
            if isWarm { warm.insert(chunk) } else { cold.insert(chunk) }
        }
        if isWarm { warmCount += run.count }
    }

    private mutating func becomeDirty(_ chunk: Int) {
        ownerOfChunk[chunk] = 0
        dirty.insert(chunk)
        dirtyCount += 1
        ownedCount -= 1
    }

    private mutating func slot(of owner: ChunkOwner) -> UInt32 {
        if let slot = slotOfOwner[owner] { return slot }
        let slot: UInt32
        if let free = freeSlots.popLast() {
            slot = free
            slots[Int(slot)] = OwnerSlot(owner: owner)
        } else {
            slot = UInt32(slots.count)
            slots.append(OwnerSlot(owner: owner))
        }
        slotOfOwner[owner] = slot
        return slot
    }

    private mutating func take(_ count: Int, from slot: UInt32) {
        slots[Int(slot)].chunks -= count
        if slots[Int(slot)].chunks > 0 { return }
        slotOfOwner[slots[Int(slot)].owner] = nil
        freeSlots.append(slot)
    }
}
