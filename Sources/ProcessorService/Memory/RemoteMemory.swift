import Fabric
import Kernel
import Lite
import Logging
import Wire

/// The processor's way to the memory components: connections, places for programs, and chunks. One per processor; all calls are
/// safe on any thread and wait for an answer.
public final class RemoteMemory: Sendable {
    /// Asks the manager where a program's next vRegion shall live, leaving out the nodes given.
    public typealias Place = @Sendable (ProgramID, [NodeID]) -> (Status, ManagerProcessorPlace?)

    /// A memory component that answers are waited for at most this long.
    static let patience = Duration.seconds(5)

    public let node: RackNode
    let staging: PoolAllocator
    let logger: Logger
    private let place: Place

    public init(node: RackNode, staging: PoolAllocator, logger: Logger, place: @escaping Place) {
        self.node = node
        self.staging = staging
        self.logger = logger
        self.place = place
    }

    /// A component with room for the program, connected; the status is the manager's, or says that it cannot be reached.
    func findPlace(_ program: ProgramID, excluding excluded: [NodeID]) -> (Status, ManagerProcessorPlace?, LitePeer?) {
        var excluded = excluded
        while true {
            let (status, place) = place(program, excluded)
            guard status.isOK, let place else { return (status.isOK ? .malformed : status, nil, nil) }
            if let peer = connect(place) { return (.ok, place, peer) }
            // Placed on a component that cannot be reached from here: another one may do. The list grows, so this ends.
            if excluded.contains(place.memory) || excluded.count > WireLimit.components_max {
                return (.peerLost, nil, nil)
            }
            excluded.append(place.memory)
        }
    }

    private func connect(_ place: ManagerProcessorPlace) -> LitePeer? {
        if let peer = node.peer(place.memory), peer.isConnected { return peer }
        guard let address = FabricAddress(place.liteAddress) else { return nil }
        do throws(LiteError) {
            let peer = try node.connect(to: address, until: .after(Self.patience))
            return peer.id == place.memory ? peer : nil
        } catch {
            logger.warning("cannot reach \(place.name): \(error)")
            return nil
        }
    }

    /// Reserves at most `count` chunks.
    func reserve(_ program: ProgramID, at peer: LitePeer, count: Int) -> (Status, [UInt32]) {
        let request = ProcessorMemoryReserve(program: program, count: UInt32(count))
        let (status, answer) = node.call(
            peer, RackFunction.reserveChunks, request, answer: ChunkList.self, until: .after(Self.patience))
        guard status.isOK else { return (status, []) }
        let limit = peer.poolBytes / UInt64(RemoteChunk.bytes)
        guard let chunks = answer?.chunks, !chunks.isEmpty, chunks.count <= count,
            chunks.allSatisfy({ UInt64($0) < limit })
        else { return (.malformed, []) }
        return (.ok, chunks)
    }

    /// Gives chunks back. A failure is logged only: whatever the component still holds goes when the program ends.
    func release(_ program: ProgramID, at peer: LitePeer, chunks: [UInt32]) {
        let (status, _) = node.call(
            peer, RackFunction.releaseChunks, ChunkList(program: program, chunks: chunks), answer: Acknowledgement.self,
            until: .after(Self.patience))
        if !status.isOK && peer.isConnected {
            logger.warning("program \(program): releasing \(chunks.count) chunks was answered \(status.rawValue)")
        }
    }

    /// Gives everything back that the program holds at the component.
    func releaseAll(_ program: ProgramID, at peer: LitePeer) {
        if !peer.isConnected { return }
        let (status, _) = node.call(
            peer, RackFunction.releaseOwner, MemoryReleaseOwner(processor: node.id, program: program),
            answer: Acknowledgement.self, until: .after(Self.patience))
        if !status.isOK && peer.isConnected {
            logger.warning("program \(program): releasing its memory was answered \(status.rawValue)")
        }
    }
}
