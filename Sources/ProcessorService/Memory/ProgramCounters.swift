import Synchronization
import Wire

/// A program's counters: written by its monitor thread, read by any.
final class ProgramCounters: Sendable {
    let faults = Atomic<UInt64>(0)
    let zeroFills = Atomic<UInt64>(0)
    let remoteReadPages = Atomic<UInt64>(0)
    let remoteWritePages = Atomic<UInt64>(0)
    let evictedPages = Atomic<UInt64>(0)
    let residentPages = Atomic<UInt64>(0)
    let peakResidentPages = Atomic<UInt64>(0)
    let remoteChunks = Atomic<UInt64>(0)
    let peakRemoteChunks = Atomic<UInt64>(0)
    /// Trapped system calls, injections, forks, co-locations: for the log.
    let trappedCalls = Atomic<UInt64>(0)
    let injections = Atomic<UInt64>(0)
    let forks = Atomic<UInt64>(0)
    let colocations = Atomic<UInt64>(0)
    /// Faults by first writes, and pages brought because something pointed to them: for the log.
    let firstWrites = Atomic<UInt64>(0)
    let followedPages = Atomic<UInt64>(0)
    /// Batches evicted ahead of need, batches evicted when room was needed, and what was waited for the former, in
    /// microseconds: for the log.
    let batchesAhead = Atomic<UInt64>(0)
    let batchesNeeded = Atomic<UInt64>(0)
    let waitedAhead = Atomic<UInt64>(0)
    /// In-use chunks by component. Written when a chunk is taken or given back.
    let perMemory = Mutex<[(name: String, chunks: UInt64)]>([])

    @inline(__always)
    static func add(_ counter: borrowing Atomic<UInt64>, _ amount: Int = 1) {
        // One writer: a plain load and store, no locked instruction.
        counter.store(counter.load(ordering: .relaxed) &+ UInt64(truncatingIfNeeded: amount), ordering: .relaxed)
    }

    func setResident(_ pages: Int) {
        residentPages.store(UInt64(max(0, pages)), ordering: .relaxed)
        if UInt64(max(0, pages)) > peakResidentPages.load(ordering: .relaxed) {
            peakResidentPages.store(UInt64(pages), ordering: .relaxed)
        }
    }

    func changeChunks(_ memory: Int, by change: Int) {
        let total = remoteChunks.load(ordering: .relaxed) &+ UInt64(bitPattern: Int64(change))
        remoteChunks.store(total, ordering: .relaxed)
        if total > peakRemoteChunks.load(ordering: .relaxed) { peakRemoteChunks.store(total, ordering: .relaxed) }
        perMemory.withLock { $0[memory].chunks &+= UInt64(bitPattern: Int64(change)) }
    }

    func snapshot() -> ProgramStatistics {
        var statistics = ProgramStatistics()
        statistics.faults = faults.load(ordering: .relaxed)
        statistics.zeroFills = zeroFills.load(ordering: .relaxed)
        statistics.remoteReadPages = remoteReadPages.load(ordering: .relaxed)
        statistics.remoteWritePages = remoteWritePages.load(ordering: .relaxed)
        statistics.evictedPages = evictedPages.load(ordering: .relaxed)
        statistics.residentBytes = residentPages.load(ordering: .relaxed) * Page.bytes
        statistics.peakResidentBytes = peakResidentPages.load(ordering: .relaxed) * Page.bytes
        statistics.remoteBytes = remoteChunks.load(ordering: .relaxed) * UInt64(RemoteChunk.bytes)
        statistics.peakRemoteBytes = peakRemoteChunks.load(ordering: .relaxed) * UInt64(RemoteChunk.bytes)
        statistics.perMemory = perMemory.withLock { shares in
            shares.map { MemoryShare(memory: $0.name, bytes: $0.chunks * UInt64(RemoteChunk.bytes)) }
        }
        return statistics
    }
}
