import CLinux
import Fabric
import Kernel
import Synchronization
import Wire

/// What a `LitePeer` holds of its link without knowing the device.
class LinkCore: @unchecked Sendable {
    /// The node that the link belongs to.
    let owner: ObjectIdentifier
    /// Set once, when the peer is gone, before its waiting callers are woken.
    private let lostWord: UnsafeMutablePointer<UInt32>

    init(owner: ObjectIdentifier) {
        self.owner = owner
        lostWord = .allocate(capacity: 1)
        lostWord.initialize(to: 0)
    }

    deinit { lostWord.deallocate() }

    @inline(__always)
    final var isLost: Bool { lego_atomic_load_u32(lostWord) != 0 }
    final func markLost() { _ = lego_atomic_exchange_u32(lostWord, 1) }
}

/// The connection to one peer: K queue pairs, the memory for messages each way, and the slots of what is under way.
///
/// Life: set up by the thread that connects or by the acceptor, one queue pair after the other; *joined* when both sides have
/// agreed on it (see `Membership`); lost when a queue pair fails or somebody disconnects it; its memory goes back when the last
/// operation that was under way has let go. Whoever uses the ports or the memory holds a call slot, a transfer slot or a serving
/// mark that was taken while the link was not lost.
final class Link<Device: RDMADevice>: LinkCore, @unchecked Sendable {
    /// Transfers under way at a time; a further thread waits.
    static var transfers_max: Int { 32 }

    let index: Int
    let generation: UInt32
    /// Whether this node connected; else the peer did. Decides which queue pairs carry whose calls.
    let isInitiator: Bool
    let layout: MessageLayout
    /// Where the peer writes requests and responses.
    let inbox: UnsafeMutableRawPointer
    let inboxAddress: UInt64
    let inboxKey: UInt32
    /// Where requests and responses are composed, and where atomics put their results. Closed to peers.
    let outbox: UnsafeMutableRawPointer
    let outboxKey: UInt32
    /// The memory of the two, until it is given back: whoever keeps a `LitePeer` keeps no memory.
    private var regions: Messages?

    let calls: SlotSet
    let callWaiters: UnsafeMutablePointer<Waiter>
    let transfers: SlotSet
    let transferWaiters: UnsafeMutablePointer<Waiter>
    /// One word per request slot of the peer: 1 while its request is being served.
    let serving: UnsafeMutablePointer<UInt32>
    private let servingCount: UnsafeMutablePointer<UInt32>
    /// Nanoseconds that calls took of late (a moving average, written without order): whether spinning is worth while.
    let recentWait_ns: UnsafeMutablePointer<UInt64>

    // Written during set-up under the membership lock, before the link is joined; constant from then on.
    private(set) var remoteNode = NodeID(rawValue: 0)
    private(set) var pairCount: Int
    /// Of these the last are kept for transfers that ask for them.
    private let reservedPairs: Int
    /// Calls under way at a time, and bytes of a message: the lesser of what the two sides allow.
    private(set) var callLimit = 0
    private(set) var messageLimit = 0
    /// The peer's name for the link, beside its node.
    private(set) var remoteMessageKey: UInt32 = 0
    private var remoteRequests: UInt64 = 0
    private var remoteResponses: UInt64 = 0
    private var remoteStride: UInt64 = 0
    private(set) var remotePoolAddress: UInt64 = 0
    private(set) var remotePoolBytes: UInt64 = 0
    private(set) var remotePoolKey: UInt32 = 0
    private(set) var remotePoolAccess: RemoteAccess = []
    let ports: UnsafeMutablePointer<Port<Device>?>
    /// The peer's public object, which holds this one: let go when the link is taken down. Written under the membership lock, after
    /// set-up by the poller only; read by the poller, and by others under the lock.
    private(set) var peer: LitePeer?

    /// The initiator's greeting until `adopt`. The acceptor thread's alone.
    var pendingGreeting: Greeting?
    /// What the queue pairs follow; nil without a link model.
    let line = Mutex<LinkLine?>(nil)
    /// Responses that found the send queue full; the poller posts them later.
    let unsent = Mutex<[UnsentResponse]>([])
    /// Set by the poller when nothing of the link is left but what others hold.
    private let down = Atomic<Bool>(false)
    private let failing = Atomic<Bool>(false)
    private let released = Atomic<Bool>(false)
    private let ready = Atomic<Bool>(false)
    private let joined = Atomic<Bool>(false)

    /// The memory of a link's messages. An adapter pins all of it as it registers it, which takes its time.
    struct Messages {
        let layout: MessageLayout
        fileprivate let inbox: Device.Region
        fileprivate let outbox: Device.Region

        init(_ layout: MessageLayout, of device: Device) throws(FabricError) {
            self.layout = layout
            inbox = try device.allocate(bytes: layout.bytes, access: .write)
            outbox = try device.allocate(bytes: layout.bytes + Link.transfers_max * 8, access: [])
        }
    }

    struct UnsentResponse {
        var slot: Int
        var count: Int
    }

    init(
        owner: ObjectIdentifier, index: Int, generation: UInt32, isInitiator: Bool, configuration: LiteConfiguration,
        messages: Messages
    ) {
        self.index = index
        self.generation = generation
        self.isInitiator = isInitiator
        layout = messages.layout
        inbox = messages.inbox.base
        inboxAddress = messages.inbox.remoteAddress
        inboxKey = messages.inbox.remoteKey
        outbox = messages.outbox.base
        outboxKey = messages.outbox.localKey
        regions = messages
        pairCount = configuration.queuePairsPerPeer
        reservedPairs = configuration.reservedQueuePairs
        ports = .allocate(capacity: LiteLimit.queuePairs.upperBound)
        ports.initialize(repeating: nil, count: LiteLimit.queuePairs.upperBound)
        calls = SlotSet(capacity: layout.calls)
        callWaiters = Waiter.table(count: layout.calls)
        transfers = SlotSet(capacity: Self.transfers_max)
        transferWaiters = Waiter.table(count: Self.transfers_max)
        serving = .allocate(capacity: layout.calls)
        serving.initialize(repeating: 0, count: layout.calls)
        servingCount = .allocate(capacity: 1)
        servingCount.initialize(to: 0)
        recentWait_ns = .allocate(capacity: 1)
        recentWait_ns.initialize(to: 0)
        super.init(owner: owner)
    }

    deinit {
        ports.deinitialize(count: LiteLimit.queuePairs.upperBound)
        ports.deallocate()
        callWaiters.deallocate()
        transferWaiters.deallocate()
        serving.deallocate()
        servingCount.deallocate()
        recentWait_ns.deallocate()
    }

    // MARK: Set-up, under the membership lock

    /// Takes over what the peer said of itself. The poller looks at none of it before `isReady`.
    func adopt(_ greeting: Greeting, link: LinkKind) {
        remoteNode = greeting.node
        callLimit = min(layout.calls, Int(greeting.calls))
        calls.restrict(to: callLimit)
        messageLimit = min(layout.messageBytes, Int(greeting.messageBytes))
        pairCount = min(pairCount, Int(greeting.pairs))
        remoteMessageKey = greeting.messageKey
        remoteRequests = greeting.messageAddress + UInt64(greeting.layout.requestOffset(0))
        remoteResponses = greeting.messageAddress + UInt64(greeting.layout.responseOffset(0))
        remoteStride = UInt64(greeting.layout.stride)
        remotePoolAddress = greeting.poolAddress
        remotePoolBytes = greeting.poolBytes
        remotePoolKey = greeting.poolKey
        remotePoolAccess = greeting.poolAccess
        peer = LitePeer(id: greeting.node, poolBytes: greeting.poolBytes, link: link, core: self)
        ready.store(true, ordering: .releasing)
    }

    /// Whether the peer's greeting has been taken over.
    var isReady: Bool { ready.load(ordering: .acquiring) }

    /// Whether both sides have agreed on the link. Set under the membership lock.
    var isJoined: Bool { joined.load(ordering: .acquiring) }
    func markJoined() { joined.store(true, ordering: .releasing) }

    /// Adds a queue pair; false when it has it already, or is lost.
    func install(_ port: Port<Device>, at pair: Int) -> Bool {
        if isLost || pair >= pairCount || ports[pair] != nil { return false }
        ports[pair] = port
        return true
    }

    /// Whether every queue pair is there.
    var isComplete: Bool {
        if !isReady { return false }
        for pair in 0..<pairCount where ports[pair] == nil { return false }
        return true
    }

    /// Lets go of the peer object, and so of the cycle of references between the two.
    func takePeer() -> LitePeer? {
        defer { peer = nil }
        return peer
    }

    // MARK: Queue pairs

    /// Whether the queue pair carries this node's calls (and the peer's responses to them), or the peer's.
    @inline(__always)
    func carriesOwnCalls(_ pair: Int) -> Bool { (pair & 1 == 0) == isInitiator }

    /// The queue pair for a request in this slot.
    @inline(__always)
    func requestPair(_ slot: Int) -> Int {
        isInitiator ? slot % ((pairCount + 1) / 2) * 2 : slot % (pairCount / 2) * 2 + 1
    }

    /// The queue pair for the response in this slot of the peer's.
    @inline(__always)
    func responsePair(_ slot: Int) -> Int {
        isInitiator ? slot % (pairCount / 2) * 2 + 1 : slot % ((pairCount + 1) / 2) * 2
    }

    /// The queue pair for a transfer in this slot.
    @inline(__always)
    func transferPair(_ slot: Int, on pairs: TransferPairs) -> Int {
        let reserved = min(reservedPairs, pairCount - 1)
        if reserved == 0 { return slot % pairCount }
        return pairs == .reserved ? pairCount - 1 - slot % reserved : slot % (pairCount - reserved)
    }

    @inline(__always)
    func remoteRequest(_ slot: Int) -> UInt64 { remoteRequests &+ UInt64(slot) &* remoteStride }
    @inline(__always)
    func remoteResponse(_ slot: Int) -> UInt64 { remoteResponses &+ UInt64(slot) &* remoteStride }

    // MARK: Holding

    /// Whether this is the first report of the link's failure.
    func beginFailing() -> Bool { !failing.exchange(true, ordering: .sequentiallyConsistent) }
    var isFailing: Bool { failing.load(ordering: .acquiring) }

    /// Runs `body` on a port of the link; on nothing where it is not there, or no more. What keeps it alive is what every user of
    /// the ports holds (see above): no reference is counted.
    @inline(__always)
    func withPort<Value>(_ pair: Int, _ otherwise: Value, _ body: (Port<Device>) -> Value) -> Value {
        guard let port = uncounted(Port<Device>.self, at: ports + pair) else { return otherwise }
        return port._withUnsafeGuaranteedRef(body)
    }

    /// The same with its queue pair.
    @inline(__always)
    func withPair<Value>(_ pair: Int, _ otherwise: Value, _ body: (Device.Pair) -> Value) -> Value {
        withPort(pair, otherwise) { $0.pair.lend(body) }
    }

    @inline(__always)
    func beginServing() { _ = lego_atomic_add_u32(servingCount, 1) }

    @inline(__always)
    func endServing() {
        _ = lego_atomic_add_u32(servingCount, .max)
        if isLost { releaseIfIdle() }
    }

    @inline(__always)
    func giveCall(_ slot: Int) {
        (callWaiters + slot).reset()
        calls.give(slot)
        if isLost { releaseIfIdle() }
    }

    @inline(__always)
    func giveTransfer(_ slot: Int) {
        (transferWaiters + slot).reset()
        transfers.give(slot)
        if isLost { releaseIfIdle() }
    }

    /// Gives ports and memory back when the link is lost and nothing is under way any more; any later operation sees the loss
    /// before it touches them.
    func releaseIfIdle() {
        // Not before its queue pairs have been disconnected.
        guard isDown, lego_atomic_load_u32(servingCount) == 0, calls.isIdle, transfers.isIdle else { return }
        if released.exchange(true, ordering: .acquiringAndReleasing) { return }
        for pair in 0..<LiteLimit.queuePairs.upperBound { ports[pair] = nil }
        regions?.inbox.deregister()
        regions?.outbox.deregister()
        regions = nil
    }

    var isDown: Bool { down.load(ordering: .sequentiallyConsistent) }

    /// The queue pairs are disconnected and every waiter is woken: what the link holds goes back with its last user.
    func markDown() {
        down.store(true, ordering: .sequentiallyConsistent)
        releaseIfIdle()
    }
}
