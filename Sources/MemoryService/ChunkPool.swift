import Glibc
import Kernel
import Synchronization
import Wire

/// The pool's memory together with who owns it. All calls are safe on any thread.
///
/// Lock order: `scrubbing` before `allocator`. `scrubbing` is held by the scrubber while it zeroes one run (at most
/// `runChunks_max` chunks, about 0.5 ms), `allocator` never while memory is touched. A run that is being zeroed belongs
/// to whoever took it.
final class ChunkPool: Sendable {
    /// Chunks zeroed at a time: long runs are cheaper per chunk to give back, short ones make nobody wait.
    static let runChunks_max = 16

    private let base: UInt
    private let retainedChunks_max: Int
    private let scrubbing = Mutex(())
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

    /// Gives between 1 and `count` zeroed chunks to `owner`; none when the pool is full, nil when `isWelcome` answers
    /// false, which is asked under the lock that `releaseAll` takes. Zeroes on the spot only when nothing else is left.
    func reserve(_ count: Int, for owner: ChunkOwner, isWelcome: () -> Bool) -> [UInt32]? {
        while true {
            let chunks: [UInt32]? = allocator.withLock { isWelcome() ? $0.reserve(count, for: owner) : nil }
            guard let chunks else { return nil }
            if !chunks.isEmpty { return chunks }
            // Free chunks may all be dirty, or be in the hands of the scrubber or of another caller for a moment.
            if zeroRun(atMost: min(count, Self.runChunks_max)) { continue }
            if allocator.withLock({ $0.ownedCount == $0.chunkCount }) { return [] }
            scrubbing.withLock { _ in }
            sched_yield()
        }
    }

    func release(_ chunks: [UInt32], of owner: ChunkOwner) -> ChunkRelease {
        allocator.withLock { $0.release(chunks, of: owner) }
    }

    func releaseAll(where matches: (ChunkOwner) -> Bool) -> Int {
        allocator.withLock { $0.releaseAll(where: matches) }
    }

    /// The scrubber's step: zeroes one run of released chunks; false when there is none.
    func scrub() -> Bool { scrubbing.withLock { _ in zeroRun(atMost: Self.runChunks_max) } }

    private func zeroRun(atMost limit: Int) -> Bool {
        let (run, isKept) = allocator.withLock { allocator -> (Range<Int>?, Bool) in
            let run = allocator.takeDirty(atMost: limit)
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
