import Fabric
import Wire

/// A node that is or was connected. Kept by whoever talks to it; never becomes another node: a peer that restarted, or was lost
/// and connected again, is another `LitePeer`.
public final class LitePeer: Sendable {
    public let id: NodeID
    /// Bytes of the peer's pool; transfers beyond are refused here, before anything is sent.
    public let poolBytes: UInt64
    /// The path that the connection takes.
    public let link: LinkKind
    let core: LinkCore

    init(id: NodeID, poolBytes: UInt64, link: LinkKind, core: LinkCore) {
        self.id = id
        self.poolBytes = poolBytes
        self.link = link
        self.core = core
    }

    /// False once the peer is lost, for good. One load.
    public var isConnected: Bool { !core.isLost }
}
