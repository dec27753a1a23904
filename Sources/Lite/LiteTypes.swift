import Fabric
import Kernel
import Wire

/// The sizes and habits of a Lite node. Every capacity is taken at start-up.
public struct LiteConfiguration: Sendable {
    /// Shown in thread names and errors, e.g. `memory0`.
    public var name: String
    /// Where peers connect; port 0 takes any free one.
    public var listen: FabricAddress
    /// Memory that this node registers once for one-sided access by its peers and as the local end of its own transfers, in
    /// bytes; a multiple of 4096. One region, one key (LITE §4.1).
    public var poolBytes: Int
    /// What peers may do with the pool.
    public var poolAccess: RemoteAccess = .all
    /// Queue pairs to each peer, shared by all threads (K in LITE §6.2): half carry the calls of one side, half the other's. 2 to
    /// 16; the lesser of the two nodes' numbers is used.
    public var queuePairsPerPeer = 2
    /// How many of them carry no transfers but those that ask for `TransferPairs.reserved` (HW-Sep in LITE §6.2). One at least
    /// is left for the others.
    public var reservedQueuePairs = 0
    /// Calls to one peer that may be under way at a time; a further caller waits for a slot. 1 to 1024; the lesser of the two
    /// nodes' numbers is used, here and for `messageBytes_max`.
    public var callsPerPeer_max = 64
    /// Longest request or response in bytes, 256 to 2 MiB. Larger data moves one-sided. A peer costs
    /// `4 * callsPerPeer_max * messageBytes_max` bytes of address space; without an adapter, which pins all of it, only what
    /// messages touch takes memory.
    public var messageBytes_max = 64 << 10
    /// Peers at a time, 1 to 1024; a further one is refused.
    public var peers_max = 64
    /// Threads that run handlers registered for `.worker`.
    public var workers = 2
    /// Requests that may wait for a worker; further ones are answered `busy`.
    public var workerQueue_max = 1024
    /// How long the poller and a waiting caller spin before they sleep (LITE §5.2, adaptive).
    public var spin: Duration = .microseconds(10)
    /// What a link to a node takes the time of from its beginning on, see `LiteNode.setLinkModel`; nil: what it really
    /// takes. Called once a link, by Lite's own threads: it must not wait.
    public var linkModel: @Sendable (NodeID) -> LinkModel? = { _ in nil }

    public init(name: String, listen: FabricAddress, poolBytes: Int) {
        self.name = name
        self.listen = listen
        self.poolBytes = poolBytes
    }
}

/// Why a node could not be made or a peer not reached; calls and transfers answer a `Status` instead.
public enum LiteError: Error, Sendable, CustomStringConvertible {
    case fabric(FabricError)
    case system(KernelError)
    /// WHAT is out of range: ALLOWED
    case invalid(String)
    /// the peer speaks another version of the protocol: REASON
    case incompatiblePeer(String)

    public var description: String {
        switch self {
        case .fabric(let error): "\(error)"
        case .system(let error): "\(error)"
        case .invalid(let text): text
        case .incompatiblePeer(let reason): "the peer speaks another version of the protocol: \(reason)"
        }
    }
}

/// How a call ended: the callee's status (or Lite's own: `peerLost`, `timedOut`, `noFunction`, `tooLarge`) and the length of the
/// response in bytes.
public struct CallResult: Sendable {
    public var status: Status
    public var count: Int
    @inlinable
    public init(status: Status, count: Int = 0) {
        self.status = status
        self.count = count
    }
}

/// Where a handler runs.
public enum HandlerThread: Sendable {
    /// On the node's poller: for handlers that never wait and take at most some microseconds.
    case poller
    /// On one of the node's workers: may block, call and transfer.
    case worker
}

/// Which of a peer's queue pairs carry a transfer. Without reserved ones there is no difference.
public enum TransferPairs: Sendable {
    case common
    /// Those that `LiteConfiguration.reservedQueuePairs` sets apart.
    case reserved
}

/// One contiguous piece of a one-sided transfer. `local` lies in this node's pool, `remoteOffset` counts from the start of the
/// peer's. Plain data.
public struct Transfer: @unchecked Sendable {
    public var local: UnsafeMutableRawPointer
    public var remoteOffset: UInt64
    public var count: Int
    @inlinable
    public init(local: UnsafeMutableRawPointer, remoteOffset: UInt64, count: Int) {
        self.local = local
        self.remoteOffset = remoteOffset
        self.count = count
    }
}
