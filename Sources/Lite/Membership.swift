import Fabric
import Kernel
import Wire

/// Which links a node has, and which of them is *the* connection to a peer. Protected by the node's membership lock.
///
/// Agreement: an initiator connects all queue pairs, then asks by a call on the link itself (`join`) whether the link is to be the
/// one between the two nodes. The acceptor grants it unless it is connected to that node already, or has itself asked that
/// node and its own id is the lower one. So when two nodes connect to each other at the same moment exactly one of the links
/// is joined: the initiator of the other finds it and takes it instead.
struct Membership<Device: RDMADevice>: ~Copyable {
    /// How long an acceptor keeps a link whose initiator does not join it.
    static var halfOpenFor: Duration { .seconds(10) }

    var isStarted = false
    var isClosing = false
    /// Every link that is not torn down, by its number in the node's table.
    var links: [Link<Device>?]
    /// Joined links by peer.
    var established: [NodeID: Link<Device>] = [:]
    /// Links that this node has asked to join, by peer.
    var joining: [NodeID: Link<Device>] = [:]
    /// Accepted links that are not joined yet.
    var halfOpen: [(link: Link<Device>, deadline: Deadline)] = []
    /// The peer behind an address that was connected to.
    var addresses: [FabricAddress: NodeID] = [:]
    private var generation: UInt32 = 0

    init(capacity: Int) { links = Array(repeating: nil, count: capacity) }

    /// A free number in the table, and the generation for it.
    mutating func reserve() -> (index: Int, generation: UInt32)? {
        guard let index = links.firstIndex(where: { $0 == nil }) else { return nil }
        generation &+= 1
        return (index, generation)
    }

    /// The connected peer of that id.
    func peer(_ id: NodeID) -> LitePeer? {
        guard let link = established[id], !link.isLost else { return nil }
        return link.peer
    }

    /// Whether a link that the peer asks to join is the one. Answers `ok`, `exists` or `busy`.
    mutating func join(_ link: Link<Device>, self id: NodeID) -> Status {
        guard !isClosing, !link.isLost, link.isComplete else { return .busy }
        if let present = established[link.remoteNode] { return present === link ? .ok : .exists }
        if joining[link.remoteNode] != nil, id.rawValue < link.remoteNode.rawValue { return .exists }
        establish(link)
        return .ok
    }

    /// Makes a link the connection to its peer.
    mutating func establish(_ link: Link<Device>) {
        established[link.remoteNode] = link
        link.markJoined()
        halfOpen.removeAll { $0.link === link }
    }

    /// Takes a lost link out, but for its number. Answers whether it was the connection to its peer.
    mutating func remove(_ link: Link<Device>) -> Bool {
        halfOpen.removeAll { $0.link === link }
        let node = link.remoteNode
        if joining[node] === link { joining[node] = nil }
        guard established[node] === link else { return false }
        established[node] = nil
        addresses = addresses.filter { $0.value != node }
        return true
    }
}
