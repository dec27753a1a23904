import Glibc
import Kernel
import Lite
import Logging
import Synchronization
import Wire

/// A memory component: the node's pool, in chunks that processors reserve and release by call and read and write
/// one-sided.
///
/// A chunk belongs to one program on one life of a processor, and every release checks that. When the connection to a
/// processor breaks, that life of it is over and its chunks are free at once; the manager frees those of a processor
/// whose lease ran out. What is free is zeroed before anybody gets it.
///
/// Make it before `node.start()`: it registers its functions. The node's owner passes on what `onPeerLost` tells.
public final class MemoryService: Sendable {
    /// The node of the manager, which may release anybody's chunks; 0: not known.
    private let manager = Atomic<UInt64>(0)
    private let node: RackNode
    private let pool: ChunkPool
    private let scrubber: Scrubber
    private let logger: Logger

    public init(node: RackNode, configuration: MemoryServiceConfiguration, logger: Logger) throws(MemoryServiceError) {
        let memory = UnsafeMutableRawBufferPointer(
            rebasing: node.pool.prefix(configuration.poolBytes ?? node.pool.count))
        if memory.count < RemoteChunk.bytes { throw .poolTooSmall(memory.count) }
        if configuration.prefault, madvise(memory.baseAddress, memory.count, MADV_POPULATE_WRITE) < 0 {
            throw .prefault(bytes: memory.count, reason: KernelError.text(errno))
        }
        self.node = node
        self.logger = logger
        pool = ChunkPool(
            pool: memory, retainedBytes: configuration.retainedBytes ?? memory.count / 8,
            isPresent: configuration.prefault)
        do {
            scrubber = try Scrubber(pool: pool)
            try scrubber.start()
        } catch {
            throw .thread("\(error)")
        }
        registerFunctions()
    }

    /// Bytes of the pool in whole chunks. Any thread.
    public var capacityBytes: UInt64 { pool.capacityBytes }
    /// Bytes of the chunks that programs hold. Any thread.
    public var usedBytes: UInt64 { pool.usedBytes }

    /// Names the manager's node after each registration there. Any thread.
    public func managerChanged(to node: NodeID?) { manager.store(node?.rawValue ?? 0, ordering: .releasing) }

    /// Frees what a processor held whose connection ended. To be called for every peer that Lite gives up.
    public func peerLost(_ peer: LitePeer) { releaseProcessor(peer.id, why: "its connection ended") }

    /// Ends the service's thread. Call it after `node.close()`. Idempotent.
    public func stop() { scrubber.stop() }

    private func registerFunctions() {
        node.register(RackFunction.reserveChunks, ProcessorMemoryReserve.self, ChunkList.self) {
            [weak self] in self?.reserve($0, $1) ?? (.busy, nil)
        }
        node.register(RackFunction.releaseChunks, ChunkList.self, Acknowledgement.self) {
            [weak self] in (self?.release($0, $1) ?? .busy, Acknowledgement())
        }
        node.register(RackFunction.releaseOwner, MemoryReleaseOwner.self, Acknowledgement.self) {
            [weak self] in (self?.releaseOwner($0, $1) ?? .busy, Acknowledgement())
        }
    }

    private func reserve(_ peer: LitePeer, _ request: ProcessorMemoryReserve) -> (Status, ChunkList?) {
        if request.program.rawValue == 0 { return (.malformed, nil) }
        let owner = ChunkOwner(processor: peer.id, program: request.program)
        // A peer counts as disconnected before its loss is told. Asked under the pool's lock, this leaves no moment in
        // which a late reservation could slip in behind the release of everything that the peer held.
        let chunks = pool.reserve(Int(request.count), for: owner, isWelcome: { peer.isConnected })
        guard let chunks else { return (.peerLost, nil) }
        if chunks.isEmpty {
            logger.debug("full", metadata: ["program": "\(request.program)", "capacityBytes": "\(capacityBytes)"])
            return (.noSpace, nil)
        }
        return (.ok, ChunkList(program: request.program, chunks: chunks))
    }

    private func release(_ peer: LitePeer, _ request: ChunkList) -> Status {
        let owner = ChunkOwner(processor: peer.id, program: request.program)
        switch pool.release(request.chunks, of: owner) {
        case .released:
            scrubber.wake()
            return .ok
        case .outOfRange:
            logger.warning("refused a release beyond the pool", metadata: ["processor": "\(peer.id)"])
            return .malformed
        case .notOwned:
            logger.warning(
                "refused a release of chunks that the caller does not own", metadata: ["processor": "\(peer.id)"])
            return .accessRefused
        }
    }

    private func releaseOwner(_ peer: LitePeer, _ request: MemoryReleaseOwner) -> Status {
        let isManager = peer.id.rawValue == manager.load(ordering: .acquiring)
        switch (request.processor.rawValue, request.program.rawValue) {
        case (0, 0): return .malformed
        case (0, _):
            let owner = ChunkOwner(processor: peer.id, program: request.program)
            let count = pool.releaseAll { isManager ? $0.program == owner.program : $0 == owner }
            if count > 0 { scrubber.wake() }
        case (let processor, 0):
            if !isManager, processor != peer.id.rawValue { return .accessRefused }
            // The manager has given the processor up. If it still lives, it must reach nothing here from now on.
            if isManager, let lost = node.peer(request.processor) { node.disconnect(lost) }
            releaseProcessor(request.processor, why: isManager ? "the manager lost it" : "it asked for it")
        case (let processor, _):
            if !isManager, processor != peer.id.rawValue { return .accessRefused }
            let owner = ChunkOwner(processor: request.processor, program: request.program)
            if pool.releaseAll(where: { $0 == owner }) > 0 { scrubber.wake() }
        }
        return .ok
    }

    private func releaseProcessor(_ processor: NodeID, why: String) {
        let count = pool.releaseAll { $0.processor == processor }
        if count == 0 { return }
        scrubber.wake()
        logger.info(
            "released all memory of a processor: \(why)",
            metadata: ["processor": "\(processor)", "bytes": "\(count * RemoteChunk.bytes)"])
    }
}
