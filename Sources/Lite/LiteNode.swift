import Fabric
import Kernel
import Wire

/// A node that is or was connected. Kept by whoever talks to it; never becomes another node.
public final class LitePeer: Sendable {
    public let id: NodeID
    /// Bytes of the peer's pool; transfers beyond are refused here, before anything is sent.
    public let poolBytes: UInt64
    init(id: NodeID, poolBytes: UInt64) {
        self.id = id
        self.poolBytes = poolBytes
    }
    public var isConnected: Bool { fatalError("in work") }
    public var link: LinkKind { fatalError("in work") }
}

/// A node of the rack: the only way in which daemons talk to each other (LITE, SOSP'17). One registered pool, K queue pairs to
/// each peer shared by all threads, remote procedure calls by write-with-immediate, one poller for everything that arrives.
///
/// All calls are safe on any thread. No call or transfer allocates.
public final class LiteNode<Device: RDMADevice>: @unchecked Sendable {
    /// Answers a request. `response` holds the function's `responseBytes_max`; the count that is answered is sent. `from` is the
    /// caller. The buffers are valid until the handler returns.
    public typealias Handler =
        @Sendable (_ from: LitePeer, _ request: UnsafeRawBufferPointer, _ response: UnsafeMutableRawBufferPointer) ->
        CallResult

    public let id: NodeID = .random()
    /// This node's registered memory.
    public var pool: UnsafeMutableRawBufferPointer { fatalError("in work") }

    /// Opens the pool and listens, but answers nobody before `start`.
    public init(device: Device, configuration: LiteConfiguration) throws(LiteError) { fatalError("in work") }

    /// The address with the port that was taken.
    public var address: FabricAddress { fatalError("in work") }

    /// Offers a function to all peers. Before `start` only.
    public func register(
        _ function: FunctionID, requestBytes_max: Int, responseBytes_max: Int, on thread: HandlerThread,
        _ handler: @escaping Handler
    ) { fatalError("in work") }

    /// Called on a Lite thread, once per peer, after the last operation of that peer has been failed. Before `start` only.
    public func onPeerLost(_ handler: @escaping @Sendable (LitePeer) -> Void) { fatalError("in work") }

    /// Starts the poller, the workers and the acceptance of peers.
    public func start() throws(LiteError) { fatalError("in work") }

    /// Connects to the node at `address`, or answers the peer when it is connected already.
    public func connect(to address: FabricAddress, until deadline: Deadline) throws(LiteError) -> LitePeer {
        fatalError("in work")
    }

    /// The connected peer of that id.
    public func peer(_ id: NodeID) -> LitePeer? { fatalError("in work") }

    /// Ends the connection to a peer: what is under way ends as `peerLost`, and the peer can reach nothing here any more.
    public func disconnect(_ peer: LitePeer) { fatalError("in work") }

    /// Calls a function at `peer` and waits for the answer. The response is written into `response`.
    public func call(
        _ peer: LitePeer, _ function: FunctionID, request: UnsafeRawBufferPointer,
        response: UnsafeMutableRawBufferPointer, until deadline: Deadline
    ) -> CallResult { fatalError("in work") }

    /// Copies from the peer's pool into this one's, one-sided: the peer's CPU has no part in it. All pieces, or an error after
    /// which any part of the local memory may have been written.
    public func read(_ peer: LitePeer, _ pieces: UnsafeBufferPointer<Transfer>, until deadline: Deadline) -> Status {
        fatalError("in work")
    }

    /// Copies from this node's pool into the peer's, one-sided. On an error any part of the remote memory may have been written.
    public func write(_ peer: LitePeer, _ pieces: UnsafeBufferPointer<Transfer>, until deadline: Deadline) -> Status {
        fatalError("in work")
    }

    /// Adds to an aligned 8-byte word of the peer's pool; answers its former value through `former`.
    public func fetchAdd(
        _ peer: LitePeer, remoteOffset: UInt64, add: UInt64, former: inout UInt64, until deadline: Deadline
    ) -> Status { fatalError("in work") }

    /// Stores `desired` in an aligned 8-byte word of the peer's pool if it holds `expected`; answers its former value.
    public func compareSwap(
        _ peer: LitePeer, remoteOffset: UInt64, expected: UInt64, desired: UInt64, former: inout UInt64,
        until deadline: Deadline
    ) -> Status { fatalError("in work") }

    /// Disconnects every peer, ends the threads and gives the pool back. Idempotent.
    public func close() { fatalError("in work") }
}

extension LiteNode {
    /// Encodes, calls and decodes: for the control path. Allocates.
    public func call<Request: WireMessage, Response: WireMessage>(
        _ peer: LitePeer, _ function: FunctionID, _ request: Request, answer: Response.Type = Response.self,
        until deadline: Deadline
    ) -> (status: Status, response: Response?) { fatalError("in work") }

    /// Registers a handler that decodes, runs on a worker and encodes: for the control path. A request that does not decode is
    /// answered `malformed`.
    public func register<Request: WireMessage, Response: WireMessage>(
        _ function: FunctionID, _ request: Request.Type, _ response: Response.Type,
        _ handler: @escaping @Sendable (LitePeer, Request) -> (Status, Response?)
    ) { fatalError("in work") }
}
