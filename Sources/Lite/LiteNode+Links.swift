import Fabric
import Kernel
import Wire

/// A connection as an operator sees it.
public struct LinkStatus: Sendable {
    public var peer: NodeID
    public var kind: LinkKind
    /// Why it is of that kind: some words.
    public var reason: String
    /// Whether this node made the connection, and so chose the path.
    public var isInitiator: Bool
    public var queuePairs: Int
    public var model: LinkModel?
    /// What this node has moved over it. What the peer has, the peer's node tells.
    public var traffic: LinkTraffic
}

extension LiteNode {
    /// The connections to the peers that there are now. Control path.
    public var links: [LinkStatus] {
        let links = membership.withLock { Array($0.established.values) }
        return links.compactMap { link in
            // The mark keeps the ports alive.
            link.beginServing()
            defer { link.endServing() }
            if link.isLost { return nil }
            guard let first = link.ports[0]?.pair.object else { return nil }
            var status = LinkStatus(
                peer: link.remoteNode, kind: first.link, reason: first.pathReason, isInitiator: link.isInitiator,
                queuePairs: link.pairCount, model: link.line.withLock { $0?.model }, traffic: LinkTraffic())
            for pair in 0..<link.pairCount {
                if let port = link.ports[pair] { status.traffic = status.traffic + port.pair.object.traffic }
            }
            return status
        }
    }

    /// Lets all that this node sends to a peer or asks of it take the time of a modelled link from now on, or with nil
    /// no longer. Holds until the connection ends. What the peer asks of this node follows the peer's own model. Throws
    /// `invalid` where the device has no models, or the peer is lost.
    public func setLinkModel(_ model: LinkModel?, for peer: LitePeer) throws(LiteError) {
        guard let link = link(of: peer) else { throw .invalid("a peer of another node: it must be this node's") }
        try setModel(model, link)
    }

    /// Lets a link that has just been joined follow the model that the configuration has for it.
    func startModel(_ link: Link<Device>) {
        guard let model = configuration.linkModel(link.remoteNode) else { return }
        // A link that is lost again needs none; a device without models was not meant to have them.
        try? setModel(model, link)
    }

    private func setModel(_ model: LinkModel?, _ link: Link<Device>) throws(LiteError) {
        link.beginServing()
        defer { link.endServing() }
        if link.isLost { throw .invalid("the connection to \(link.remoteNode) has ended: connect again") }
        let line = model.map { LinkLine($0) }
        do throws(FabricError) {
            for pair in 0..<link.pairCount { try link.ports[pair]?.pair.object.follow(line) }
        } catch {
            throw .fabric(error)
        }
        link.line.withLock { $0 = line }
    }
}
