import CLinux
import Fabric
import Kernel
import Synchronization
import Wire

/// A node of the rack: the only way in which daemons talk to each other (LITE, SOSP'17). One registered pool, K queue pairs to
/// each peer shared by all threads, remote procedure calls by write-with-immediate, one poller for everything that arrives.
///
/// All calls are safe on any thread. No call or transfer allocates. A node that was started lives until `close`.
///
/// Threads: `poll` serves requests and takes lost links down; `accept` takes connections; `event` reports lost peers; `w0`… run
/// handlers. Whoever waits for a response polls for it, see `CompletionGate`.
///
/// Lock order: `membership`, then nothing; a gate's lock and a pool's lock are leaves and are never nested. Handlers and
/// `onPeerLost` run without any lock.
public final class LiteNode<Device: RDMADevice>: @unchecked Sendable {
    /// Answers a request. `response` holds the function's `responseBytes_max`; the count that is answered is sent. `from` is the
    /// caller. The buffers are valid until the handler returns. The bytes of the request lie in memory that the peer can write:
    /// what is checked must be read once.
    public typealias Handler =
        @Sendable (_ from: LitePeer, _ request: UnsafeRawBufferPointer, _ response: UnsafeMutableRawBufferPointer) ->
        CallResult

    /// A request on its way to a worker.
    struct Job {
        let link: Link<Device>
        let peer: LitePeer
        let request: IncomingRequest
    }

    public let id: NodeID = .random()
    /// The address with the port that was taken.
    public let address: FabricAddress
    let device: Device
    let configuration: LiteConfiguration
    let spin_ns: UInt64
    let poolRegion: Device.Region
    let functions = FunctionTable()
    /// Requests of all peers arrive here. Polled by the poller only.
    let requests: Device.Queue
    /// Responses of all peers arrive here. Polled by whoever waits for one.
    let responses: CompletionGate<Device.Queue>
    /// Unretained links by number, 0 where there is none: what a completion finds its link by. A link is entered before its
    /// first receive is posted, and taken out by the poller under the lock of `responses`.
    let table: UnsafeMutablePointer<UInt64>
    let membership: Mutex<Membership<Device>>
    /// Futex word that changes with the membership.
    let changes: UnsafeMutablePointer<UInt32>
    /// Ends the poller's sleep.
    let kick: KickDescriptor
    /// How many links have failed and wait for the poller to take them down.
    let failures = Atomic<Int>(0)
    /// How many responses wait for room in a send queue.
    let unsent = Atomic<Int>(0)
    /// How many calls were given up by their callers and wait for their response; -1 for a moment while one comes.
    let orphans = Atomic<Int>(0)
    /// How many detached calls are under way, and how many there ever were.
    let detached = Atomic<Int>(0)
    let begun = Atomic<Int>(0)
    /// How many of them the poller looks for, and whether it sleeps without doing so.
    let urgent = Atomic<Int>(0)
    let isDeaf = Atomic<Bool>(false)
    /// Whether the poller sleeps without a limit, so that a detached call must tell it of its deadline.
    let isUntimed = Atomic<Bool>(false)
    // The poller's alone: see `sleepLimit` and `expireDetached`.
    var begunSeen = 0
    var lastBegun_ns: UInt64 = 0
    var lastExpiry_ns: UInt64 = 0
    let isStopping = Atomic<Bool>(false)
    /// Whether the poller should spin after a request.
    let gauge = SpinGauge()
    let pollerThread = Atomic<Int32>(0)
    let workers: WorkerPool<Job>
    let events: WorkerPool<LitePeer>
    /// Written before `start`.
    private var peerLost: [@Sendable (LitePeer) -> Void] = []
    /// Written before `start`. With one the poller also takes responses.
    private(set) var endHandler: (@Sendable (UInt64, Status) -> Void)?
    /// Owned by `start` and `close`.
    private var poller: KernelThread?
    private var acceptor: KernelThread?
    /// Lost peers that the event thread has no room for yet. The poller's alone.
    var unreported: [LitePeer] = []

    /// This node's registered memory: zeroed, page-aligned. Valid until `close`.
    public var pool: UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(start: poolRegion.base, count: configuration.poolBytes)
    }

    /// Opens the pool and listens, but answers nobody before `start`. The node takes the device over and closes it.
    public init(device: Device, configuration: LiteConfiguration) throws(LiteError) {
        try Self.validate(configuration)
        self.device = device
        self.configuration = configuration
        let spin = configuration.spin.components
        spin_ns = UInt64(max(0, spin.seconds)) * 1_000_000_000 + UInt64(max(0, spin.attoseconds)) / 1_000_000_000
        let links = configuration.peers_max
        // Each queue pair of each link may have a receive for each call slot; each can complete at once when a peer is lost.
        let completions_max = links * (configuration.queuePairsPerPeer + 1) / 2 * configuration.callsPerPeer_max
        do throws(FabricError) {
            poolRegion = try device.allocatePool(bytes: configuration.poolBytes, access: configuration.poolAccess)
            requests = try device.makeCompletionQueue(capacity: completions_max)
            let responseQueue = try device.makeCompletionQueue(capacity: completions_max)
            do throws(KernelError) {
                kick = try KickDescriptor()
                responses = CompletionGate(queue: responseQueue, kick: try KickDescriptor())
            } catch { throw .system(error) }
            address = try device.listen(on: configuration.listen)
        } catch { throw .fabric(error) }
        table = .allocate(capacity: links)
        table.initialize(repeating: 0, count: links)
        membership = Mutex(Membership(capacity: links))
        changes = .allocate(capacity: 1)
        changes.initialize(to: 0)
        workers = WorkerPool(capacity: configuration.workerQueue_max)
        events = WorkerPool(capacity: links)
    }

    deinit {
        table.deallocate()
        changes.deallocate()
    }

    private static func validate(_ configuration: LiteConfiguration) throws(LiteError) {
        func check(_ name: String, _ value: Int, _ range: ClosedRange<Int>) throws(LiteError) {
            if !range.contains(value) {
                throw .invalid("\(name) of \(value) is out of range: \(range.lowerBound) to \(range.upperBound)")
            }
        }
        try check("queuePairsPerPeer", configuration.queuePairsPerPeer, LiteLimit.queuePairs)
        try check(
            "reservedQueuePairs", configuration.reservedQueuePairs, 0...(configuration.queuePairsPerPeer - 1))
        try check("callsPerPeer_max", configuration.callsPerPeer_max, LiteLimit.calls)
        try check("messageBytes_max", configuration.messageBytes_max, LiteLimit.messageBytes)
        try check("peers_max", configuration.peers_max, LiteLimit.peers)
        try check("workers", configuration.workers, LiteLimit.workers)
        try check("workerQueue_max", configuration.workerQueue_max, LiteLimit.workerQueue)
        if configuration.poolBytes <= 0 || configuration.poolBytes % 4096 != 0 {
            throw .invalid("poolBytes of \(configuration.poolBytes) is out of range: a positive multiple of 4096")
        }
    }

    /// Offers a function to all peers. Before `start` only. Neither size may exceed `messageBytes_max`.
    public func register(
        _ function: FunctionID, requestBytes_max: Int, responseBytes_max: Int, on thread: HandlerThread,
        _ handler: @escaping Handler
    ) {
        precondition(requestBytes_max <= configuration.messageBytes_max, "request larger than messageBytes_max")
        precondition(responseBytes_max <= configuration.messageBytes_max, "response larger than messageBytes_max")
        membership.withLock { precondition(!$0.isStarted, "functions are registered before start") }
        functions.add(
            function,
            FunctionTable.Entry(
                requestBytes_max: requestBytes_max, responseBytes_max: responseBytes_max, thread: thread,
                handler: handler))
    }

    /// Adds a handler that is called on a Lite thread of its own, once per peer, after the last operation of that peer has been
    /// failed. It may block, call and connect. Handlers run one after the other. Before `start` only.
    public func onPeerLost(_ handler: @escaping @Sendable (LitePeer) -> Void) {
        membership.withLock { precondition(!$0.isStarted, "onPeerLost is set before start") }
        peerLost.append(handler)
    }

    /// Sets what is told of the end of each call of `begin`: its token and its status (the callee's, `timedOut` or
    /// `peerLost`). It runs on whatever thread took the response, under a lock of the node's: it must not wait nor use
    /// the node. Before `start` only.
    public func onEnded(_ handler: @escaping @Sendable (UInt64, Status) -> Void) {
        membership.withLock { precondition(!$0.isStarted, "onEnded is set before start") }
        endHandler = handler
    }

    /// Starts the poller, the workers and the acceptance of peers. Once.
    public func start() throws(LiteError) {
        let starts = membership.withLock { membership in
            if membership.isStarted || membership.isClosing { return false }
            membership.isStarted = true
            return true
        }
        if !starts { throw .invalid("the node \(configuration.name) was started or closed before: start it once") }
        let peerLost = peerLost
        do throws(KernelError) {
            try events.start(name: "\(configuration.name)/ev", threads: 1) { peer in
                for handler in peerLost { handler(peer) }
            }
            try workers.start(name: configuration.name, threads: configuration.workers) { self.work($0) }
            poller = try KernelThread(name: "\(configuration.name)/poll") { self.poll() }
            acceptor = try KernelThread(name: "\(configuration.name)/accept") { self.accept() }
        } catch {
            close()
            throw .system(error)
        }
    }

    /// The connected peer of that id.
    public func peer(_ id: NodeID) -> LitePeer? { membership.withLock { $0.peer(id) } }

    /// The peers that are connected now.
    public var peers: [LitePeer] {
        membership.withLock { membership in
            membership.established.values.compactMap { link in link.isLost ? nil : link.peer }
        }
    }

    /// Ends the connection to a peer: what is under way ends as `peerLost`, and when this returns the peer can reach nothing here
    /// any more. From a handler on the poller it only begins to.
    public func disconnect(_ peer: LitePeer) {
        guard let link = link(of: peer) else { return }
        fail(link)
        if pollerThread.load(ordering: .relaxed) == lego_thread_id() { return }
        waitForChange(until: .after(.seconds(10))) { $0.links.allSatisfy { $0 !== link } }
    }

    /// Begins to end the connection to a peer, for threads that must not wait: what is under way ends as `peerLost`, and
    /// `onPeerLost` follows once the peer can reach nothing here any more.
    public func beginDisconnect(_ peer: LitePeer) {
        if let link = link(of: peer) { fail(link) }
    }

    /// Disconnects every peer, ends the threads and gives the pool back. Idempotent. Not from a handler.
    public func close() {
        let closes = membership.withLock { membership in
            defer { membership.isClosing = true }
            return !membership.isClosing
        }
        if !closes { return }
        // Fails every link; the poller has taken them all down when it ends.
        isStopping.store(true, ordering: .sequentiallyConsistent)
        let remaining = membership.withLock { $0.links.compactMap { $0 } }
        for link in remaining { fail(link) }
        kick.signal()
        poller?.join()
        // Handlers that are under way run on to their end: their calls answer `peerLost`.
        workers.stop()
        events.stop()
        device.close()
        acceptor?.join()
        poolRegion.deregister()
    }

    /// The link behind a peer of this node.
    @inline(__always)
    func link(of peer: LitePeer) -> Link<Device>? {
        if peer.core.owner != ObjectIdentifier(self) { return nil }
        return unsafeDowncast(peer.core, to: Link<Device>.self)
    }

    /// Runs `body` on a peer's link, which the peer keeps alive, without counting a reference.
    @inline(__always)
    func withLink<Value>(of peer: LitePeer, _ otherwise: Value, _ body: (Link<Device>) -> Value) -> Value {
        Unmanaged.passUnretained(peer.core)._withUnsafeGuaranteedRef { core in
            if core.owner != ObjectIdentifier(self) { return otherwise }
            return body(unsafeDowncast(core, to: Link<Device>.self))
        }
    }

    /// Announces a change of the membership to those who wait for one.
    func announceChange() {
        _ = lego_atomic_add_u32(changes, 1)
        Futex.wake(changes, count: .max)
    }

    /// Waits until the membership satisfies a condition; false at the deadline.
    @discardableResult
    func waitForChange(until deadline: Deadline, _ condition: (borrowing Membership<Device>) -> Bool) -> Bool {
        while true {
            let seen = lego_atomic_load_u32(changes)
            if membership.withLock({ condition($0) }) { return true }
            if deadline.hasPassed { return false }
            Futex.wait(changes, while: seen, until: deadline)
        }
    }
}
