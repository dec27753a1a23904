import Fabric
import Glibc
import Kernel
import Lite
import Logging
import Wire

/// One program's remote memory: which components hold it, its chunks, and the transfers. Owned by the monitor thread;
/// no call allocates except those that reserve chunks.
///
/// Every failure is final for the program: it is kept in `failure`, and the calls answer false from then on.
final class RemoteStore {
    /// A memory component that the program uses or has used.
    struct Memory {
        let id: NodeID
        let name: String
        let peer: LitePeer
        /// Numbers of chunks that are reserved and not in use.
        var free: [UInt32] = []
        /// Chunks in use.
        var used = 0
        /// How many chunks to reserve the next time.
        var batch: UInt32 = 16
        var isFull = false
        var isLost = false
    }

    /// The longest that a transfer or a call may take before its component counts as lost.
    static let patience: Duration = .seconds(10)
    private static let batch_max: UInt32 = 128
    /// Free chunks that are kept for reuse; what is beyond goes back.
    private static let kept_max = 256

    let program: ProgramID
    private let remote: RemoteMemory
    private let counters: ProgramCounters
    private(set) var memories: [Memory] = []
    let chunks = ChunkBox()
    /// Which component a vRegion (1 GiB of address space) is bound to, plus 1; 0: none yet.
    private let bindings: UnsafeMutablePointer<UInt16>
    private static let bindings_count = 1 << 17
    private(set) var failure: ProgramFailure?

    /// Staging memory in the node's pool: the local end of reads, of writes, and of writes ahead of need, `window` pages
    /// each.
    static let window = 64
    private let staging: UnsafeMutableRawBufferPointer
    let readBuffer: UnsafeMutableRawPointer
    let writeBuffer: UnsafeMutableRawPointer
    let aheadBuffer: UnsafeMutableRawPointer
    private var pieces = PieceList(capacity: RemoteStore.window)

    /// A class around the table, so that it can be reached while the store itself changes.
    final class ChunkBox {
        var table = ChunkTable()
    }

    init(program: ProgramID, remote: RemoteMemory, counters: ProgramCounters) throws(KernelError) {
        let pageBytes = Int(Page.bytes)
        guard let staging = remote.buffers.allocate(bytes: 3 * Self.window * pageBytes) else {
            throw KernelError("allocation of transfer buffers in the node's pool", 12)
        }
        self.program = program
        self.remote = remote
        self.counters = counters
        self.staging = staging
        readBuffer = staging.baseAddress!
        writeBuffer = staging.baseAddress! + Self.window * pageBytes
        aheadBuffer = staging.baseAddress! + 2 * Self.window * pageBytes
        bindings = .allocate(capacity: Self.bindings_count)
        bindings.initialize(repeating: 0, count: Self.bindings_count)
    }

    deinit {
        remote.buffers.deallocate(staging)
        bindings.deallocate()
    }

    // MARK: Transfers

    /// Where a stored entry's page is in its component's pool, in bytes.
    @inline(__always)
    private func location(_ entry: PageEntry) -> (memory: Int, offset: UInt64) {
        let chunk = chunks.table[entry.chunk]
        return (
            Int(chunk.pointee.memory),
            UInt64(chunk.pointee.number) * UInt64(RemoteChunk.bytes) + UInt64(entry.slot) * Page.bytes
        )
    }

    /// Whether two stored pages lie in the same component, so that one transfer can bring both.
    @inline(__always)
    func isSameMemory(_ left: PageEntry, _ right: PageEntry) -> Bool {
        chunks.table[left.chunk].pointee.memory == chunks.table[right.chunk].pointee.memory
    }

    /// Reads `count` stored pages, at most `window`, all in one component, into the read buffer. One READ per
    /// contiguous piece.
    func read(_ entries: UnsafeMutablePointer<PageEntry>, count: Int) -> Bool {
        if failure != nil { return false }
        pieces.removeAll()
        let memory = location(entries.pointee).memory
        for index in 0..<count {
            pieces.add(readBuffer + index * Int(Page.bytes), location(entries[index]).offset)
        }
        let status = remote.node.read(
            memories[memory].peer, pieces.buffer, until: .after(Self.patience))
        if !status.isOK { return fail(memory, status) }
        ProgramCounters.add(counters.remoteReadPages, count)
        return true
    }

    /// Reads `count` stored pages, at most `window`, wherever they lie, into the read buffer: one transfer a component.
    func gather(_ entries: UnsafePointer<PageEntry>, count: Int) -> Bool {
        if failure != nil { return false }
        for memory in memories.indices {
            pieces.removeAll()
            for index in 0..<count {
                let place = location(entries[index])
                if place.memory == memory { pieces.add(readBuffer + index * Int(Page.bytes), place.offset) }
            }
            if pieces.count == 0 { continue }
            let status = remote.node.read(
                memories[memory].peer, pieces.buffer,
                until: .after(Self.patience))
            if !status.isOK { return fail(memory, status) }
        }
        ProgramCounters.add(counters.remoteReadPages, count)
        return true
    }

    // MARK: Memory on this host

    /// How many of the stored pages, from the first on, lie one behind the other. At least 1.
    @inline(__always)
    func runLength(_ entries: UnsafeMutablePointer<PageEntry>, count: Int) -> Int {
        let first = location(entries.pointee)
        var length = 1
        while length < count {
            let next = location(entries[length])
            if next.memory != first.memory || next.offset != first.offset + UInt64(length) * Page.bytes { break }
            length += 1
        }
        return length
    }

    /// Memory of a component on this host, lent until `endRead`.
    struct Lent {
        var place: UnsafeMutableRawPointer
        fileprivate var memory: Int
    }

    /// Where `count` stored pages that lie one behind the other can be read by this process; nil unless their component
    /// is on this host.
    @inline(__always)
    func beginRead(_ entry: PageEntry, count: Int) -> Lent? {
        if failure != nil { return nil }
        let (memory, offset) = location(entry)
        guard
            let place = remote.node.beginAccess(
                memories[memory].peer, remoteOffset: offset, count: count * Int(Page.bytes), .read)
        else { return nil }
        ProgramCounters.add(counters.remoteReadPages, count)
        return Lent(place: place, memory: memory)
    }

    @inline(__always)
    func endRead(_ lent: Lent) { remote.node.endAccess(memories[lent.memory].peer) }

    /// Stores one page where `entry` is stored. False unless its component is on this host: then `write`.
    @inline(__always)
    func store(_ source: UnsafeRawPointer, _ entry: PageEntry) -> Bool {
        if failure != nil { return false }
        let (memory, offset) = location(entry)
        let peer = memories[memory].peer
        guard let place = remote.node.beginAccess(peer, remoteOffset: offset, count: Int(Page.bytes), .write) else {
            return false
        }
        memcpy(place, source, Int(Page.bytes))
        remote.node.endAccess(peer)
        ProgramCounters.add(counters.remoteWritePages)
        return true
    }

    /// Writes pages from the write buffer, page `index` of it to where `entries[index]` is stored. One WRITE per
    /// contiguous piece.
    func write(_ entries: UnsafePointer<PageEntry>, count: Int) -> Bool {
        if failure != nil { return false }
        var first = 0
        while first < count {
            let memory = location(entries[first]).memory
            pieces.removeAll()
            var index = first
            while index < count {
                let place = location(entries[index])
                if place.memory != memory { break }
                pieces.add(writeBuffer + index * Int(Page.bytes), place.offset)
                index += 1
            }
            let status = remote.node.write(
                memories[memory].peer, pieces.buffer,
                until: .after(Self.patience))
            if !status.isOK { return fail(memory, status) }
            first = index
        }
        ProgramCounters.add(counters.remoteWritePages, count)
        return true
    }

    /// Has the next page of `writeBack` go where `entry` is stored.
    func add(_ entry: PageEntry, to writeBack: WriteBack) {
        let (memory, offset) = location(entry)
        writeBack.add(memories[memory].peer, memory: memory, offset: offset)
    }

    /// A transfer that somebody else made for this program failed.
    func transferFailed(_ memory: Int, _ status: Status) { _ = fail(memory, status) }

    private func fail(_ memory: Int, _ status: Status) -> Bool {
        remote.logger.warning(
            "transfer failed", metadata: ["program": "\(program)", "status": "\(status.rawValue)"])
        lose(memory)
        return false
    }

    private func lose(_ memory: Int) {
        if failure != nil { return }
        failure = .componentLost(
            name: memories[memory].name, bytes: UInt64(memories[memory].used) * UInt64(RemoteChunk.bytes))
    }

    /// A memory component is gone: fails the program if any page of it was there.
    func memoryLost(_ node: NodeID) {
        for index in memories.indices where memories[index].id == node {
            if memories[index].used > 0 { lose(index) }
            memories[index].isFull = true
            memories[index].isLost = true
            memories[index].free = []
        }
    }

    // MARK: Slots

    /// Gives `entry`, which is page `page`'s place in its leaf, a slot of its own to be written to.
    func assign(_ page: UInt64, _ entry: UnsafeMutablePointer<PageEntry>) -> Bool {
        if entry.pointee.isStored {
            if chunks.table[entry.pointee.chunk].pointee.references[entry.pointee.slot] == 1 { return true }
            release(entry)
        }
        // Neighbours in the same 64 KiB share a chunk, so that one READ brings them all.
        let slot = Int(page & 15)
        let block = entry - slot
        for index in 0..<RemoteChunk.pages where index != slot && block[index].isStored {
            let chunk = block[index].chunk
            if chunks.table[chunk].pointee.references[slot] == 0 {
                chunks.table.retain(chunk, slot)
                entry.pointee.store(chunk: chunk, slot: slot)
                return true
            }
        }
        guard let chunk = takeChunk(region: Int(page >> 18)) else { return false }
        chunks.table.retain(chunk, slot)
        entry.pointee.store(chunk: chunk, slot: slot)
        return true
    }

    /// Takes the entry's slot off it.
    func release(_ entry: UnsafeMutablePointer<PageEntry>) {
        let index = entry.pointee.chunk
        if chunks.table.release(index, entry.pointee.slot) {
            let chunk = chunks.table[index].pointee
            chunks.table.remove(index)
            let memory = Int(chunk.memory)
            memories[memory].used -= 1
            memories[memory].free.append(chunk.number)
            memories[memory].isFull = false
            counters.changeChunks(memory, by: -1)
            if memories[memory].free.count > Self.kept_max { giveBack(memory, keeping: Self.kept_max / 2) }
        }
        entry.pointee.forgetStored()
    }

    /// Adds a reference for a copy of the entry.
    @inline(__always)
    func retain(_ entry: PageEntry) { chunks.table.retain(entry.chunk, entry.slot) }

    private func giveBack(_ memory: Int, keeping kept: Int) {
        let list = Array(memories[memory].free[kept...])
        memories[memory].free.removeLast(list.count)
        let (status, _) = remote.node.call(
            memories[memory].peer, RackFunction.releaseChunks, ChunkList(program: program, chunks: list),
            answer: Acknowledgement.self, until: .after(Self.patience))
        if !status.isOK && memories[memory].used > 0 { _ = fail(memory, status) }
    }

    private func takeChunk(region: Int) -> UInt32? {
        if failure != nil { return nil }
        let bound = Int(bindings[region & (Self.bindings_count - 1)])
        if bound > 0, let chunk = takeChunk(from: bound - 1) { return chunk }
        // Any component that the program uses already is as good, as long as it has room.
        for memory in memories.indices where memory != bound - 1 && bound > 0 {
            if let chunk = takeChunk(from: memory) { return rebind(region, memory, chunk) }
        }
        while failure == nil, let memory = findPlace() {
            if let chunk = takeChunk(from: memory) { return rebind(region, memory, chunk) }
        }
        return failure == nil ? takeLastChunk(region) : nil
    }

    /// Nobody has room, the manager says: another program may have ended meanwhile where there was none.
    private func takeLastChunk(_ region: Int) -> UInt32? {
        for memory in memories.indices where !memories[memory].isLost {
            memories[memory].isFull = false
            memories[memory].batch = 1
            if let chunk = takeChunk(from: memory) { return rebind(region, memory, chunk) }
        }
        if failure == nil {
            failure = .outOfRemoteMemory("out of memory: no memory component of the rack has room left")
        }
        return nil
    }

    private func rebind(_ region: Int, _ memory: Int, _ chunk: UInt32) -> UInt32 {
        bindings[region & (Self.bindings_count - 1)] = UInt16(memory + 1)
        return chunk
    }

    private func takeChunk(from memory: Int) -> UInt32? {
        if memories[memory].free.isEmpty && !reserve(memory) { return nil }
        guard let number = memories[memory].free.popLast() else { return nil }
        memories[memory].used += 1
        counters.changeChunks(memory, by: 1)
        return chunks.table.add(memory: UInt32(memory), number: number)
    }

    private func reserve(_ memory: Int) -> Bool {
        if memories[memory].isFull { return false }
        let request = ProcessorMemoryReserve(program: program, count: memories[memory].batch)
        let (status, response) = remote.node.call(
            memories[memory].peer, RackFunction.reserveChunks, request, answer: ChunkList.self,
            until: .after(Self.patience))
        let chunkCount = memories[memory].peer.poolBytes / UInt64(RemoteChunk.bytes)
        guard status.isOK, let response, response.chunks.allSatisfy({ UInt64($0) < chunkCount }) else {
            memories[memory].isFull = true
            if status == .noSpace { return false }
            memories[memory].isLost = true
            if memories[memory].used > 0 { return fail(memory, status) }
            return false
        }
        // Taken from the end: ascending numbers then come out ascending.
        memories[memory].free.append(contentsOf: response.chunks.reversed())
        memories[memory].batch = min(memories[memory].batch * 2, Self.batch_max)
        return !response.chunks.isEmpty
    }

    /// Asks the manager for a component that has not refused yet.
    private func findPlace() -> Int? {
        let excluded = memories.filter(\.isFull).map(\.id) + unreachable
        let (status, place) = remote.place(program, excluded)
        guard status.isOK, let place, !excluded.contains(place.memory) else {
            if !status.isOK && status != .noSpace {
                remote.logger.warning(
                    "the manager does not say where memory shall live",
                    metadata: ["program": "\(program)", "status": "\(status.rawValue)"])
            }
            return nil
        }
        if let known = memories.firstIndex(where: { $0.id == place.memory }) { return known }
        guard let peer = connect(place) else {
            unreachable.append(place.memory)
            return findPlace()
        }
        memories.append(Memory(id: place.memory, name: place.name, peer: peer))
        counters.perMemory.withLock { $0.append((name: place.name, chunks: 0)) }
        return memories.count - 1
    }

    /// Components that the manager named and that could not be reached.
    private var unreachable: [NodeID] = []

    private func connect(_ place: ManagerProcessorPlace) -> LitePeer? {
        if let peer = remote.node.peer(place.memory) { return peer }
        guard let address = FabricAddress(place.liteAddress) else { return nil }
        do {
            let peer = try remote.node.connect(to: address, until: .after(Self.patience))
            if peer.id == place.memory { return peer }
        } catch {
            remote.logger.warning(
                "cannot reach a memory component", metadata: ["memory": "\(place.name)", "error": "\(error)"])
        }
        return nil
    }

    /// Gives all remote memory of the program back.
    func releaseAll() {
        for index in memories.indices where memories[index].peer.isConnected {
            _ = remote.node.call(
                memories[index].peer, RackFunction.releaseOwner,
                MemoryReleaseOwner(processor: remote.node.id, program: program), answer: Acknowledgement.self,
                until: .after(Self.patience))
            counters.changeChunks(index, by: -memories[index].used)
            memories[index].used = 0
            memories[index].free = []
        }
    }
}
