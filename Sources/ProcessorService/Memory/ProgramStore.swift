import Kernel
import Lite
import Logging
import Synchronization
import Wire

/// How an operation of the store ended; on anything but `ok`, `ProgramStore.failure` says why the program must end.
enum StoreStatus {
    case ok
    case failed
}

/// One memory component as a program uses it. Created by the monitor thread, read by any.
final class StoreComponent: Sendable {
    let name: String
    let node: NodeID
    let peer: LitePeer
    /// Pages of the program that live there.
    let pages = Atomic<Int>(0)
    let isLost = Atomic<Bool>(false)

    init(name: String, node: NodeID, peer: LitePeer) {
        self.name = name
        self.node = node
        self.peer = peer
    }
}

/// The remote pages of one program: which slot of which component holds a page, and the one-sided transfers to and from it.
///
/// The processor holds the whole map, so a miss is one READ and no look-up at the memory component. A 64 KiB block of address
/// space is stored in one chunk where it can be, so that neighbours are one transfer. fork shares slots by reference count; a
/// shared slot is never overwritten.
///
/// Owned by the program's monitor thread, but for what is marked as safe on any thread.
final class ProgramStore: @unchecked Sendable {
    /// Pages of the staging buffers: the longest read and the longest write batch.
    static let readPages = 512
    static let writePages = 256
    /// Chunks asked of a component at a time: from the first to the last, doubling.
    private static let reservedChunks_min = 16
    private static let reservedChunks_max = 256

    let program: ProgramID
    /// Registered staging memory, `readPages` and `writePages` long.
    let readBuffer: UnsafeMutableRawPointer
    let writeBuffer: UnsafeMutableRawPointer
    /// Why the program must end; set once.
    private(set) var failure: ProgramFailure?

    private let remote: RemoteMemory
    private let logger: Logger
    private let readStaging: UnsafeMutableRawBufferPointer
    private let writeStaging: UnsafeMutableRawBufferPointer
    private var chunks = ChunkTable()
    /// By index in `ChunkTable.Record.component`. Only grows.
    private var components: [StoreComponent] = []
    /// Reserved chunks without live slots, by component.
    private var spare: [[UInt32]] = []
    private var nextReservation: [Int] = []
    /// Components that had no room when last asked.
    private var full: Set<Int> = []
    /// Which component new chunks of a vRegion (1 GiB of address space) are taken from. A program has a handful.
    private var regions: [(region: UInt64, component: Int)] = []
    private let pieces: UnsafeMutablePointer<Transfer>
    /// The components, for other threads.
    private let published = Mutex<[StoreComponent]>([])

    /// nil when the staging pool has no room for another program.
    init?(program: ProgramID, remote: RemoteMemory, logger: Logger) {
        guard let reads = remote.staging.allocate(bytes: Self.readPages * 4096) else { return nil }
        guard let writes = remote.staging.allocate(bytes: Self.writePages * 4096) else {
            remote.staging.deallocate(reads)
            return nil
        }
        self.program = program
        self.remote = remote
        self.logger = logger
        readStaging = reads
        writeStaging = writes
        readBuffer = reads.baseAddress!
        writeBuffer = writes.baseAddress!
        pieces = .allocate(capacity: max(Self.readPages, Self.writePages))
    }

    deinit {
        remote.staging.deallocate(readStaging)
        remote.staging.deallocate(writeStaging)
        pieces.deallocate()
    }

    // MARK: On any thread

    /// What each component holds now.
    func shares() -> [MemoryShare] {
        published.withLock { $0 }.compactMap { component in
            let pages = component.pages.load(ordering: .relaxed)
            return pages > 0 ? MemoryShare(memory: component.name, bytes: UInt64(pages) * 4096) : nil
        }
    }

    /// Distinct remote pages.
    var storedPages: Int {
        published.withLock { $0 }.reduce(0) { $0 + $1.pages.load(ordering: .relaxed) }
    }

    /// Marks the component lost. Answers the failure that follows for the program, nil when it has no page there.
    func componentLost(_ node: NodeID) -> ProgramFailure? {
        guard let component = published.withLock({ $0 }).first(where: { $0.node == node }) else { return nil }
        component.isLost.store(true, ordering: .releasing)
        let pages = component.pages.load(ordering: .acquiring)
        return pages > 0 ? .componentLost(name: component.name, bytes: UInt64(pages) * 4096) : nil
    }

    // MARK: References

    /// Drops one reference to an entry's remote copy. The entry must be stored; the caller forgets it.
    func release(_ entry: PageEntry) {
        let record = chunks[entry.chunk]
        record.pointee.references[entry.slot] -= 1
        if record.pointee.references[entry.slot] > 0 { return }
        let component = Int(record.pointee.component)
        components[component].pages.subtract(1, ordering: .relaxed)
        record.pointee.live -= 1
        if record.pointee.live > 0 { return }
        let number = record.pointee.number
        chunks.remove(entry.chunk)
        if components[component].isLost.load(ordering: .relaxed) { return }
        full.remove(component)
        spare[component].append(number)
        if spare[component].count >= 2 * Self.reservedChunks_max { giveBack(component) }
    }

    /// Adds a reference to a stored entry's copy, for a forked child.
    func share(_ entry: PageEntry) { chunks[entry.chunk].pointee.references[entry.slot] += 1 }

    private func giveBack(_ component: Int) {
        let given = Array(spare[component].suffix(Self.reservedChunks_max))
        spare[component].removeLast(given.count)
        remote.release(program, at: components[component].peer, chunks: given)
    }

    // MARK: Slots

    /// Sees to it that the page has a slot that no other page table refers to; the entry is stored afterwards, its content not.
    func assign(_ page: UInt64, in table: PageTable) -> StoreStatus {
        var entry = table.entry(page)
        if entry.isStored {
            if chunks[entry.chunk].pointee.references[entry.slot] == 1 { return .ok }
            release(entry)
            entry.forgetStored()
            table.set(page, entry)
        }
        guard let remembered = table.blockChunk(page) else { return fail(.internalError("page \(page) out of range")) }
        let block = page >> 4
        let slot = Int(page & 15)
        var index = Int(remembered.pointee) - 1
        if index < 0 || !chunks.isFor(block, index) || chunks[index].pointee.references[slot] > 0
            || components[Int(chunks[index].pointee.component)].isLost.load(ordering: .relaxed)
        {
            guard let taken = takeChunk(block: block) else { return .failed }
            index = taken
            remembered.pointee = UInt32(index + 1)
        }
        let record = chunks[index]
        record.pointee.references[slot] = 1
        record.pointee.live += 1
        components[Int(record.pointee.component)].pages.add(1, ordering: .relaxed)
        entry.store(chunk: index, slot: slot)
        table.set(page, entry)
        return .ok
    }

    private func takeChunk(block: UInt64) -> Int? {
        let region = block >> 14  // 1 GiB is 2^14 blocks
        var component = regions.first { $0.region == region }?.component
        while true {
            if let chosen = component, !components[chosen].isLost.load(ordering: .acquiring) {
                if let number = spare[chosen].popLast() {
                    return chunks.add(number: number, component: UInt16(chosen), block: block)
                }
                if reserve(chosen) { continue }
                if failure != nil { return nil }
            }
            guard let next = place(region) else { return nil }
            component = next
        }
    }

    /// Fills `spare`; false when the component has no room (or is lost, which `failure` or `isLost` then says).
    private func reserve(_ index: Int) -> Bool {
        let component = components[index]
        let (status, numbers) = remote.reserve(program, at: component.peer, count: nextReservation[index])
        switch status {
        case .ok:
            // The last ones are handed out first: ascending numbers make neighbours of neighbours.
            spare[index] = numbers.sorted(by: >)
            nextReservation[index] = min(nextReservation[index] * 2, Self.reservedChunks_max)
            return true
        case .noSpace:
            full.insert(index)
        case .peerLost:
            lost(component)
        default:
            logger.warning("program \(program): \(component.name) answers \(status.rawValue) to a reservation")
            full.insert(index)
        }
        return false
    }

    /// Binds a region to a component that the manager names.
    private func place(_ region: UInt64) -> Int? {
        let excluded = components.indices.filter { full.contains($0) || components[$0].isLost.load(ordering: .relaxed) }
        let (status, place, peer) = remote.findPlace(program, excluding: excluded.map { components[$0].node })
        guard status.isOK, let place, let peer else {
            // A component that was full may have room again since another program ended.
            if status == .noSpace, let again = Array(full).first(where: { reserve($0) }) {
                full.remove(again)
                bind(region, to: again)
                return again
            }
            _ = fail(.outOfRemoteMemory(refusal(status)))
            return nil
        }
        var index = components.firstIndex { $0.node == place.memory }
        if index == nil {
            let component = StoreComponent(name: place.name, node: place.memory, peer: peer)
            components.append(component)
            spare.append([])
            nextReservation.append(Self.reservedChunks_min)
            published.withLock { $0.append(component) }
            index = components.count - 1
        }
        guard let index, components.count < Int(ChunkTable.noComponent), !excluded.contains(index) else {
            _ = fail(.outOfRemoteMemory("the manager names \(place.name), which has no room"))
            return nil
        }
        bind(region, to: index)
        return index
    }

    private func bind(_ region: UInt64, to component: Int) {
        regions.removeAll { $0.region == region }
        regions.append((region, component))
    }

    private func refusal(_ status: Status) -> String {
        switch status {
        case .noSpace:
            let names = full.map { components[$0].name }.sorted().joined(separator: ", ")
            return names.isEmpty ? "no memory component has room" : "\(names) full and no other component has room"
        case .peerLost, .timedOut: return "the manager does not answer, and the program needs a place for more pages"
        default: return "the manager refuses a place (status \(status.rawValue))"
        }
    }

    // MARK: Transfers

    /// Stores pages: page `pages[i]` lies at `writeBuffer + i * 4096`. Afterwards each entry names its copy; `isDirty` is the
    /// caller's. At most `writePages`. Cost on the same host: one copy of 4 KiB a page.
    func write(_ pages: UnsafeBufferPointer<UInt64>, in table: PageTable) -> StoreStatus {
        for page in pages where assign(page, in: table) != .ok { return .failed }
        return transfer(count: pages.count, buffer: writeBuffer, isWrite: true) { table.entry(pages[$0]) }
    }

    /// Fetches `count` consecutive stored pages, the first to `readBuffer + bufferIndex * 4096`. Together at most `readPages`.
    func read(_ page: UInt64, count: Int, in table: PageTable, bufferIndex: Int) -> StoreStatus {
        transfer(count: count, buffer: readBuffer + bufferIndex * 4096, isWrite: false) {
            table.entry(page + UInt64($0))
        }
    }

    /// Coalesces what is contiguous on both sides; a change of component ends a batch.
    @inline(__always)
    private func transfer(
        count: Int, buffer: UnsafeMutableRawPointer, isWrite: Bool, entryAt: (Int) -> PageEntry
    ) -> StoreStatus {
        var pieceCount = 0
        var current = -1
        for index in 0..<count {
            let entry = entryAt(index)
            let component = Int(chunks[entry.chunk].pointee.component)
            if component != current {
                if pieceCount > 0, run(pieceCount, at: current, isWrite: isWrite) != .ok { return .failed }
                pieceCount = 0
                current = component
            }
            let offset = chunks.offset(entry.chunk, slot: entry.slot)
            let local = buffer + index * 4096
            if pieceCount > 0 {
                let last = pieces + (pieceCount - 1)
                if last.pointee.remoteOffset + UInt64(last.pointee.count) == offset
                    && last.pointee.local + last.pointee.count == local
                {
                    last.pointee.count += 4096
                    continue
                }
            }
            pieces[pieceCount] = Transfer(local: local, remoteOffset: offset, count: 4096)
            pieceCount += 1
        }
        return pieceCount > 0 ? run(pieceCount, at: current, isWrite: isWrite) : .ok
    }

    private func run(_ pieceCount: Int, at index: Int, isWrite: Bool) -> StoreStatus {
        let component = components[index]
        let list = UnsafeBufferPointer(start: pieces, count: pieceCount)
        let deadline = Deadline.after(RemoteMemory.patience)
        let status =
            isWrite
            ? remote.node.write(component.peer, list, until: deadline)
            : remote.node.read(component.peer, list, until: deadline)
        if status.isOK { return .ok }
        logger.warning("program \(program): a transfer with \(component.name) ended with status \(status.rawValue)")
        lost(component)
        return .failed
    }

    private func lost(_ component: StoreComponent) {
        component.isLost.store(true, ordering: .releasing)
        let pages = component.pages.load(ordering: .relaxed)
        if pages > 0 { _ = fail(.componentLost(name: component.name, bytes: UInt64(pages) * 4096)) }
    }

    private func fail(_ reason: ProgramFailure) -> StoreStatus {
        if failure == nil { failure = reason }
        return .failed
    }

    /// Gives everything back to the components. The last call; nothing may be read or written afterwards.
    func close() {
        for component in components { remote.releaseAll(program, at: component.peer) }
    }
}
