import Kernel

/// What a peer may do with a memory region (`ibv_access_flags`). Local reads and writes are always allowed.
public struct RemoteAccess: OptionSet, Sendable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    public static let read = RemoteAccess(rawValue: 1)
    public static let write = RemoteAccess(rawValue: 2)
    public static let atomic = RemoteAccess(rawValue: 4)
    public static let all: RemoteAccess = [.read, .write, .atomic]
}

/// Registered memory. Deregisters when the last reference goes; a device keeps its regions alive while an operation
/// uses them.
public protocol MemoryRegion: AnyObject, Sendable {
    /// First byte, page-aligned where the device allocated it.
    var base: UnsafeMutableRawPointer { get }
    /// Length in bytes.
    var count: Int { get }
    /// Names the region in this device's own scatter lists.
    var localKey: UInt32 { get }
    /// Names the region in a peer's requests.
    var remoteKey: UInt32 { get }
    /// The address that a peer adds its offset to: the base, as a number in this process.
    var remoteAddress: UInt64 { get }
    /// Ends all remote access before it returns: no later access lands, those under way are waited for. Idempotent.
    func deregister()
}

/// What a send-queue work request does (`ibv_wr_opcode`).
public enum WorkOpcode: UInt8, Sendable {
    case send = 0
    case write = 1
    case writeWithImmediate = 2
    case read = 3
    case fetchAdd = 4
    case compareSwap = 5
}

/// A piece of local memory (`ibv_sge`). Plain data: what it points to is guarded by the rules of the request that it is
/// part of.
public struct ScatterElement: @unchecked Sendable {
    public var address: UnsafeMutableRawPointer
    public var count: UInt32
    public var localKey: UInt32

    @inlinable
    public init(address: UnsafeMutableRawPointer, count: Int, localKey: UInt32) {
        self.address = address
        self.count = UInt32(truncatingIfNeeded: count)
        self.localKey = localKey
    }
}

/// A request for a queue pair's send queue (`ibv_send_wr`). Plain data: posting one allocates nothing. The atomics work
/// on one aligned 8-byte word and put its former value, in host order, into the local element.
public struct WorkRequest {
    public var id: UInt64 = 0
    public var opcode: WorkOpcode
    /// Local memory, up to `QueuePairParameters.scatterElements_max` pieces. Read at once when `inline`, else owned by
    /// the device until completion. The array of elements itself is read before the post returns.
    public var local: UnsafeBufferPointer<ScatterElement>
    public var remoteAddress: UInt64 = 0
    public var remoteKey: UInt32 = 0
    public var immediate: UInt32 = 0
    /// The addend, or the value to compare with.
    public var operand: UInt64 = 0
    /// The value to store when the comparison holds.
    public var swap: UInt64 = 0
    /// Whether success makes a completion. An error always makes one.
    public var isSignaled = true
    /// Whether the bytes are copied at posting (at most `QueuePairParameters.inlineBytes_max`; send and write only).
    public var isInline = false

    @inlinable
    public init(_ opcode: WorkOpcode, local: UnsafeBufferPointer<ScatterElement>) {
        self.opcode = opcode
        self.local = local
    }
}

/// How a work request ended (`ibv_wc_status`).
public enum WorkStatus: UInt8, Sendable {
    case success = 0
    /// A local element lies outside its region, or its key is wrong.
    case localProtection = 1
    /// The message is larger than the receive buffer.
    case localLength = 2
    /// The peer refused: bad key, out of bounds, wrong rights, deregistered, misaligned atomic.
    case remoteAccess = 3
    /// The peer posted no receive in time.
    case receiverNotReady = 4
    /// The peer does not answer.
    case retryExceeded = 5
    /// The queue pair was in error when this request's turn came.
    case flushed = 6
    /// The peer could not carry the operation out.
    case remoteOperation = 7
}

/// The end of a work request (`ibv_wc`). Plain data.
public struct WorkCompletion: Sendable {
    public enum Kind: UInt8, Sendable {
        case send = 0
        case receive = 1
        /// A receive that a write-with-immediate consumed; `count` is what it wrote.
        case receiveImmediate = 2
    }
    public var id: UInt64
    public var status: WorkStatus
    public var kind: Kind
    /// Bytes received, or read.
    public var count: UInt32
    public var immediate: UInt32
    /// `QueuePair.number` of the queue pair it belongs to: how a shared completion queue tells its users apart.
    public var queuePair: UInt32

    @inlinable
    public init(
        id: UInt64, status: WorkStatus, kind: Kind, count: UInt32 = 0, immediate: UInt32 = 0, queuePair: UInt32
    ) {
        self.id = id
        self.status = status
        self.kind = kind
        self.count = count
        self.immediate = immediate
        self.queuePair = queuePair
    }
}

/// Completions of any number of queue pairs. One thread polls at a time; which one may change from call to call,
/// provided the callers order themselves.
public protocol CompletionQueue: AnyObject, Sendable {
    /// Takes up to `completions.count` completions, oldest first; answers how many. Never blocks, never allocates.
    /// Where the device has no thread of its own for it, this is also what moves data (progress).
    func poll(into completions: UnsafeMutableBufferPointer<WorkCompletion>) -> Int
    /// Readable after the next completion that follows `arm`. For poll(2) and epoll(7).
    var notificationDescriptor: Int32 { get }
    /// Asks for a notification (`ibv_req_notify_cq`). Poll once more after arming and before sleeping.
    func arm()
    /// Takes pending notifications off the descriptor.
    func acknowledge()
}

/// Where a device listens: a numeric or resolvable host, and a port (0: any free one).
public struct FabricAddress: Hashable, Sendable, CustomStringConvertible {
    public var host: String
    public var port: UInt16

    public init(host: String, port: UInt16) {
        self.host = host
        self.port = port
    }

    /// Parses `HOST:PORT`, `[IPV6]:PORT`; nil when it is neither.
    public init?(_ text: String) {
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else {
            return nil
        }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() }
        if host.isEmpty { return nil }
        self.init(host: String(host), port: port)
    }

    public var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}

/// The sizes of a queue pair.
public struct QueuePairParameters: Sendable {
    public var sendRequests_max = 256
    public var receiveRequests_max = 256
    public var scatterElements_max = 4
    public var inlineBytes_max = 220
    public init() {}
}

/// The path that a connection took, and what it was chosen from.
public enum LinkKind: String, Sendable {
    case sharedMemory = "shared-memory"
    case tcp
    case verbs
}

/// What one end of a connection has moved since it began.
public struct LinkTraffic: Sendable, Equatable {
    /// Requests that were posted.
    public var requests: UInt64 = 0
    /// Bytes that went to the peer, and that were fetched from it: payload of posted requests and direct accesses. What
    /// the peer asked for, the peer counts.
    public var bytesOut: UInt64 = 0
    public var bytesIn: UInt64 = 0
    public init() {}

    public static func + (left: LinkTraffic, right: LinkTraffic) -> LinkTraffic {
        var sum = left
        sum.requests &+= right.requests
        sum.bytesOut &+= right.bytesOut
        sum.bytesIn &+= right.bytesIn
        return sum
    }
}

/// Why a fabric call failed. Each case's comment is the operator's message.
public enum FabricError: Error, Sendable, CustomStringConvertible {
    /// CALL failed: REASON
    case system(KernelError)
    /// cannot reach HOST:PORT: REASON
    case unreachable(FabricAddress, reason: String)
    /// no way over this RDMA adapter to HOST:PORT: REASON
    case noWay(FabricAddress, reason: String)
    /// cannot listen on HOST:PORT: REASON
    case cannotListen(FabricAddress, reason: String)
    /// no RDMA device: REASON
    case noDevice(String)
    /// the peer's greeting is not understood: REASON
    case protocolViolation(String)
    /// no answer within the deadline while WHAT
    case timedOut(String)
    /// WHAT is out of range: ALLOWED
    case invalid(String)

    public var description: String {
        switch self {
        case .system(let error): "\(error)"
        case .unreachable(let address, let reason): "cannot reach \(address): \(reason)"
        case .noWay(let address, let reason): "no way over this RDMA adapter to \(address): \(reason)"
        case .cannotListen(let address, let reason): "cannot listen on \(address): \(reason)"
        case .noDevice(let reason): "no RDMA device: \(reason)"
        case .protocolViolation(let reason): "the peer's greeting is not understood: \(reason)"
        case .timedOut(let what): "no answer within the deadline while \(what)"
        case .invalid(let what): what
        }
    }
}

/// One end of a reliable connection (RC queue pair). `postSend` and `postReceive` are each called by one thread at a
/// time, and not concurrently with each other's completion handling on the same slot; Lite keeps a lock per queue pair
/// for it.
public protocol QueuePair: AnyObject, Sendable {
    associatedtype Region: MemoryRegion
    /// Unique within the device, never 0, not reused while a completion of its predecessor may be pending.
    var number: UInt32 { get }
    var link: LinkKind { get }
    /// Posts to the send queue. False when the queue is full; the work then was not accepted. After the connection is
    /// lost every accepted request completes as `.flushed`, so that a caller needs no second way to learn of it.
    func postSend(_ request: borrowing WorkRequest) -> Bool
    /// Posts a receive buffer; an empty element list takes immediates only.
    func postReceive(id: UInt64, local: UnsafeBufferPointer<ScatterElement>) -> Bool
    /// Tears the connection down on both sides: what is posted completes as `.flushed`. Idempotent, any thread, does
    /// not wait for the peer.
    func disconnect()
    /// False once either side has disconnected or died. Cheap enough for every operation.
    var isConnected: Bool { get }
    /// After `disconnect`: waits until no access of the peer that had begun before can land any more. False when the
    /// deadline comes first: the peer has been stopped in the middle of one. For fencing a peer before memory is given
    /// to another.
    func awaitQuiet(until deadline: Deadline) -> Bool
    /// The peer's memory as this process's own loads and stores reach it, where the link is shared memory and the
    /// region has been mapped by an earlier transfer; nil everywhere else, and where a READ or WRITE would be refused:
    /// post one then. The peer's deregistration waits for the access until `endAccess`, so keep it short. Any thread;
    /// two locked instructions.
    func beginAccess(_ remoteKey: UInt32, address: UInt64, count: Int, _ access: RemoteAccess)
        -> UnsafeMutableRawPointer?
    /// Ends an access that `beginAccess` has begun.
    func endAccess()
    /// The process at the other end, as the kernel attests it, where the link is shared memory and no model is in force;
    /// 0 everywhere else. It means that process only while the connection lasts.
    var peerProcess: Int32 { get }
    /// Why the connection took the path that it did: some words.
    var pathReason: String { get }
    /// Any thread, at any time; the counters of one moment may differ by the requests under way.
    var traffic: LinkTraffic { get }
    /// Lets operations take the time of a modelled link from now on, or with nil no longer. While a model is in force
    /// `beginAccess` answers nil. Throws `invalid` where the device has no such models.
    func follow(_ line: LinkLine?) throws(FabricError)
}

extension QueuePair {
    /// An adapter that has been told to disconnect refuses the peer at once.
    public func awaitQuiet(until deadline: Deadline) -> Bool { true }
    /// An adapter's peer is beyond loads and stores.
    public func beginAccess(_ remoteKey: UInt32, address: UInt64, count: Int, _ access: RemoteAccess)
        -> UnsafeMutableRawPointer?
    { nil }
    public func endAccess() {}
    public var peerProcess: Int32 { 0 }
    public var pathReason: String { "" }
    public var traffic: LinkTraffic { LinkTraffic() }
    public func follow(_ line: LinkLine?) throws(FabricError) {
        if line != nil { throw .invalid("a link model of a single device: the rack's device has them") }
    }
}

/// A connection request that has arrived and waits for an answer.
public protocol ConnectionRequest: AnyObject, Sendable {
    associatedtype Pair: QueuePair
    associatedtype Queue: CompletionQueue
    /// What the initiator sent along (at most 56 bytes, the limit of the RDMA connection manager). The RDMA connection
    /// manager does not carry the length: over verbs, zeros may follow.
    var privateData: [UInt8] { get }
    /// Accepts. `prepare` runs when the queue pair can take receives but the initiator is not told yet: post them
    /// there, so that no message arrives without a buffer.
    func accept(
        send: Queue, receive: Queue, parameters: QueuePairParameters, privateData: [UInt8],
        prepare: (Pair) throws(FabricError) -> Void
    ) throws(FabricError) -> Pair
    func reject()
}

/// An RDMA device: a protection domain, its regions, queues and connections. All calls are safe on any thread.
public protocol RDMADevice: AnyObject, Sendable {
    associatedtype Region: MemoryRegion
    associatedtype Queue: CompletionQueue
    associatedtype Pair: QueuePair where Pair.Region == Region
    associatedtype Request: ConnectionRequest where Request.Pair == Pair, Request.Queue == Queue

    /// Allocates and registers zeroed memory. This is what a peer on the same host can reach without the owner's CPU.
    func allocate(bytes: Int, access: RemoteAccess) throws(FabricError) -> Region
    /// As `allocate`, for the one large region that most transfers go to: in huge pages where the device is configured so.
    func allocatePool(bytes: Int, access: RemoteAccess) throws(FabricError) -> Region
    /// Registers memory that the caller owns and keeps until the region is deregistered.
    func register(_ memory: UnsafeMutableRawBufferPointer, access: RemoteAccess) throws(FabricError) -> Region
    /// A completion queue for at least `capacity` completions.
    func makeCompletionQueue(capacity: Int) throws(FabricError) -> Queue
    /// Starts listening; answers the address with the port that was taken. At most one listener per device.
    func listen(on address: FabricAddress) throws(FabricError) -> FabricAddress
    /// The next connection request; nil at the deadline or after `close`.
    func nextRequest(until deadline: Deadline) throws(FabricError) -> Request?
    /// Connects; `prepare` as in `ConnectionRequest.accept`. Answers the queue pair and the acceptor's private data.
    func connect(
        to address: FabricAddress, send: Queue, receive: Queue, parameters: QueuePairParameters, privateData: [UInt8],
        until deadline: Deadline, prepare: (Pair) throws(FabricError) -> Void
    ) throws(FabricError) -> (Pair, privateData: [UInt8])
    /// Disconnects everything, stops the device's threads and gives its resources back. Idempotent.
    func close()
}

extension RDMADevice {
    public func allocatePool(bytes: Int, access: RemoteAccess) throws(FabricError) -> Region {
        try allocate(bytes: bytes, access: access)
    }
}
