/// Why a connection took its path, in the words that `legoctl fabric` shows.
enum PathReason {
    /// What an acceptor knows: the initiator has chosen.
    static func accepted(_ link: LinkKind) -> String {
        switch link {
        case .sharedMemory: "same host"
        case .verbs: "both ends have an RDMA adapter"
        case .tcp: "the peer chose TCP"
        }
    }

    /// What the initiator knows of a pair of the emulated device. `isAdapterWanted`: one was looked for in vain;
    /// `noWay`: verbs have been tried in vain.
    static func connected(
        _ pair: SoftQueuePair, path: FabricPath, hasAdapter: Bool, isAdapterWanted: Bool, noWay: Bool
    ) -> String {
        if pair.link == .sharedMemory { return accepted(.sharedMemory) }
        if path == .tcp { return "component.fabric is tcp" }
        if noWay { return "the networks of the two RDMA adapters do not meet" }
        let isNear = pair.isPeerOnHost && path == .automatic
        if isNear, !hasAdapter { return "same host, but its shared memory is out of reach" }
        if isAdapterWanted || !hasAdapter { return "no RDMA adapter" }
        return "the peer offers no RDMA adapter"
    }
}
