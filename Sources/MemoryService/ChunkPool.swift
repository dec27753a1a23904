import Glibc
import Kernel
import Synchronization
import Wire

/// The pool's memory together with who owns it. All calls are safe on any thread.
///
/// Lock order: `zeroing` before `allocator`. `zeroing` is held while one run is zeroed (at most `runChunks_max` chunks,
/// about 0.5 ms), `allocator` never while memory is touched.
final class ChunkPool: Sendable {
    /// Chunks zeroed under one hold of `zeroing`: long runs are cheaper per chunk to give back, short ones make nobody
    /// wait.
    static let runChunks_max = 16

    private let base: UInt
    private let retainedChunks_max: Int
    private let zeroing = Mutex(())
    private let allocator: Mutex<ChunkAllocator>

    /// `pool` must stay mapped for this object's life. With `isPresent` all of its memory is there and stays.
    init(pool: UnsafeMutableRawBufferPointer, retainedBytes: Int, isPresent: Bool) {
        base = UInt(bitPattern: pool.baseAddress)
        let chunks = pool.count / RemoteChunk.bytes
        retainedChunks_max = isPresent ? chunks : retainedBytes / RemoteChunk.bytes
        allocator = Mutex(ChunkAllocator(chunks: chunks, warm: isPresent))
    }

    var capacityBytes: UInt64 { allocator.withLock { UInt64($0.chunkCount * RemoteChunk.bytes) } }
    var usedBytes: UInt64 { allocator.withLock { UInt64($0.ownedCount * RemoteChunk.bytes) } }
    var hasDirty: Bool { allocator.withLock { $0.dirtyCount > 0 } }

    /// Gives between 1 and `count` zeroed chunks to `owner`; none when the pool is full, nil when `isWelcome` answers
    /// false, which is asked under the lock that `releaseAll` takes. Zeroes on the spot only when nothing else is left.
    func reserve(_ count: Int, for owner: ChunkOwner, isWelcome: () -> Bool) -> [UInt32]? {
        while true {
            let chunks: [UInt32]? = allocator.withLock { isWelcome() ? $0.reserve(count, for: owner) : nil }
            guard let chunks else { return nil }
            if !chunks.isEmpty { return chunks }
            // Free chunks may all be dirty, or be in the hands of the scrubber: its turn ends before this one's begins.
            if !zeroRun() && !allocator.withLock({ $0.ownedCount < $0.chunkCount }) { return [] }
        }
    }

    func release(_ chunks: [UInt32], of owner: ChunkOwner) -> ChunkRelease {
        allocator.withLock { $0.release(chunks, of: owner) }
    }

    func releaseAll(where matches: (ChunkOwner) -> Bool) -> Int {
        allocator.withLock { $0.releaseAll(where: matches) }
    }

    /// Zeroes one run of released chunks; false when there is none.
    func zeroRun() -> Bool {
        zeroing.withLock { _ in
            let (run, isKept) = allocator.withLock { allocator -> (Range<Int>?, Bool) in
                let run = allocator.takeDirty(atMost: Self.runChunks_max)
                return (run, allocator.warmCount + (run?.count ?? 0) <= retainedChunks_max)
            }
            guard let run else { return false }
            let start = UnsafeMutableRawPointer(bitPattern: base + UInt(run.lowerBound * RemoteChunk.bytes))!
            let bytes = run.count * RemoteChunk.bytes
            // Memory that is not a memory file cannot be given back this way; it is overwritten then.
            let isGivenBack = !isKept && madvise(start, bytes, MADV_REMOVE) == 0
            if !isGivenBack { memset(start, 0, bytes) }
            allocator.withLock { $0.putBack(run, warm: !isGivenBack) }
            return true
        }
    }
}
