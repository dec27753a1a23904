import Fabric
import Wire

/// Loads and stores to a peer on the same host: what a one-sided transfer would copy into a buffer first is used where
/// it lies. Elsewhere there is no such thing, and the caller transfers.
extension LiteNode {
    /// `count` bytes of the peer's pool at `remoteOffset`, until `endAccess`; nil when the peer is not on this host, is
    /// lost, has not been transferred from or to yet, or does not allow the access. The peer cannot give the memory to
    /// anybody else meanwhile: keep it short, and wait for nothing but the kernel. Any thread; three locked instructions.
    @specialized(where Device == HybridDevice)
    public func beginAccess(_ peer: LitePeer, remoteOffset: UInt64, count: Int, _ access: RemoteAccess)
        -> UnsafeMutableRawPointer?
    {
        withLink(of: peer, nil) { link in
            link.beginServing()
            let (end, overflow) = remoteOffset.addingReportingOverflow(UInt64(truncatingIfNeeded: count))
            if !link.isLost, link.remotePoolAccess.contains(access), count >= 0, !overflow, end <= link.remotePoolBytes,
                let place = link.withPair(
                    0, nil,
                    {
                        $0.beginAccess(
                            link.remotePoolKey, address: link.remotePoolAddress &+ remoteOffset, count: count, access)
                    })
            {
                return place
            }
            link.endServing()
            return nil
        }
    }

    /// Ends an access that `beginAccess` has begun.
    @specialized(where Device == HybridDevice)
    public func endAccess(_ peer: LitePeer) {
        withLink(of: peer, ()) { link in
            // The mark that keeps the port alive is taken off last.
            link.withPair(0, ()) { $0.endAccess() }
            link.endServing()
        }
    }

    /// The process of a peer that is on this host, where its link has no model; nil otherwise, and when it is lost. What is
    /// done with the number holds only if the peer is still connected afterwards. Any thread.
    public func localProcess(of peer: LitePeer) -> Int32? {
        guard let link = link(of: peer) else { return nil }
        link.beginServing()
        defer { link.endServing() }
        let process = link.isLost ? 0 : link.withPair(0, 0) { $0.peerProcess }
        guard process > 0 else { return nil }
        return process
    }
}
