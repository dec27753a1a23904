import CLinux
import CLite
import Fabric
import Glibc
import Kernel
import Lite
import Logging
import Synchronization
import Wire

/// The LITE service of a node (SOSP'17): programs of this host join it over a Unix socket and use remote memory,
/// calls, locks and barriers of the whole cluster through memory that they share with it. It may be the node's only
/// service or one beside others.
///
/// Threads: the serving threads take turns in looking for work (`Leadership`); one clears memory; one joins pages; one
/// connects to other nodes. Other nodes' requests come in on the node's own threads.
///
/// Lock order: `control`, then a session's lock, then nothing; a function's lock, then a channel's; the channel
/// table's lock is a leaf. None is held while another node is asked.
public final class LiteService: @unchecked Sendable {
    let node: RackNode
    let configuration: LiteServiceConfiguration
    let logger: Logger
    /// This node's number in handles and messages.
    let own: UInt64
    let pool: UnsafeMutableRawPointer
    let poolBytes: UInt64
    let control: Mutex<ControlState>
    let channels: ChannelTable
    let functions = FunctionRegistry()
    let leadership: Leadership
    let lanes: LaneTable
    let pulse = Pulse()
    /// Opens when a name is nobody's claim any more, and when cleared memory is there.
    let claimGate = Gate()
    let memoryGate = Gate()
    let scrubber: Scrubber
    /// nil where the pool is of huge pages already, or is to have none.
    let joiner: PageJoiner?
    let epoll: Epoll
    let spinCycles: UInt64
    /// What sleeping and waking up would cost: so long the leader looks on even where looking on does not pay.
    let leastSpinCycles: UInt64
    /// How long low priorities give way after an operation of high priority.
    let priorityCycles: UInt64
    let gauge = SpinGauge()
    private let wake: EventDescriptor
    private let listener: Mutex<ListeningSocket?>
    let isStopping = Atomic<Bool>(false)
    // The leader's, of whom there is one at a time (`Leadership`): the language need not look for a second one at each
    // access, which took a fifth of the leader's time.

    /// Channels that are looked at, see `Engine`.
    @exclusivity(unchecked) var hot: [ServiceChannel] = []
    /// Lanes that a thread more is to run, and whether there was none left for them.
    @exclusivity(unchecked) var wanting = Ring<Lane>()
    @exclusivity(unchecked) var lanesAreFull = false
    @exclusivity(unchecked) var lastEventLook: UInt64 = 0
    /// When a submission of high priority was last taken, in cycles.
    @exclusivity(unchecked) var lastHigh: UInt64 = 0
    /// Since when there has been no longer pause, and for how long others give way now.
    @exclusivity(unchecked) var busySince: UInt64 = 0
    @exclusivity(unchecked) var holdCycles: UInt64 = 0
    /// Whether low priorities give way now, those that do so, which of them was served last, and when the next is due,
    /// see `Engine+Priorities`.
    @exclusivity(unchecked) var givesWay = false
    @exclusivity(unchecked) var held: [ServiceChannel] = []
    @exclusivity(unchecked) var nextHeld = 0
    @exclusivity(unchecked) var lowDue: UInt64 = 0
    // The owner's, from `start` to `stop`.
    private let mesh: Mesh

    /// Registers the service's functions; the node must not have been started. Its pool must hold the arena, and
    /// its messages `LiteService.messageBytes`.
    public init(node: RackNode, configuration: LiteServiceConfiguration, logger: Logger) throws {
        poolBytes = UInt64(node.pool.count)
        guard configuration.arenaBytes % 4096 == 0, configuration.arenaBytes > 0,
            configuration.arenaBytes <= poolBytes, let pool = node.pool.baseAddress
        else {
            throw LiteServiceError(
                "the node's pool of \(node.pool.count) bytes is too small for an arena of \(configuration.arenaBytes)")
        }
        guard configuration.threads >= 4, configuration.threadsPerNode >= 1 else {
            throw LiteServiceError("\(configuration.threads) threads are too few: at least 4, and 1 for each node")
        }
        leadership = Leadership(threads_max: configuration.threads)
        lanes = LaneTable(perNode: configuration.threadsPerNode)
        self.node = node
        self.configuration = configuration
        self.logger = logger
        self.pool = pool
        own = node.id.rawValue
        let start = poolBytes - configuration.arenaBytes
        control = Mutex(ControlState(arena: ExtentAllocator(offset: start, count: configuration.arenaBytes)))
        channels = ChannelTable(capacity: configuration.channels_max)
        epoll = try Epoll()
        wake = try EventDescriptor()
        listener = Mutex(nil)
        spinCycles = CycleClock.cycles(in: configuration.spin)
        priorityCycles = CycleClock.cycles(in: .milliseconds(1))
        leastSpinCycles = min(spinCycles, CycleClock.cycles(in: .microseconds(5)))
        joiner =
            configuration.joinsPages && Scrubber.pageBytes(at: pool) < PageJoiner.hugeBytes
            ? PageJoiner(pool: pool, start: Int(start), count: Int(configuration.arenaBytes)) : nil
        scrubber = try Scrubber(pool: pool, joiner: joiner)
        mesh = try Mesh()
        registerFunctions()
    }

    /// What the node's `messageBytes_max` must be at least.
    public static let messageBytes = (Int(LITE_MESSAGE_MAX) + CallHeader.encodedSize + 4095) & ~4095

    /// Listens and serves. After `node.start()`.
    public func start() throws {
        let socket = try ListeningSocket(path: configuration.socketPath)
        try epoll.add(wake.raw, token: EventToken.wake)
        try epoll.add(socket.raw, token: EventToken.listener)
        listener.withLock { $0 = socket }
        try scrubber.start { [unowned self] offset, bytes in
            control.withLock { $0.arena.give(offset, bytes) }
            memoryGate.open()
        }
        try joiner?.run()
        try leadership.start { [unowned self] in serve() }
        try mesh.start(self)
    }

    /// Ends every session and the threads, and removes the socket. Before `node.close()`. Idempotent.
    public func stop() {
        if isStopping.exchange(true, ordering: .sequentiallyConsistent) { return }
        mesh.stop()
        wake.signal()
        leadership.join()
        for session in control.withLock({ Array($0.sessions.values) }) { end(session) }
        scrubber.stop()
        joiner?.stop()
        listener.withLock { $0 = nil }
    }

    /// Other nodes that may serve LITE: those that do are connected, beside those of the configuration.
    public func learn(_ addresses: [FabricAddress]) { mesh.learn(addresses) }

    /// For epoll: what the leader is told.
    func acceptProgram() -> Descriptor? { listener.withLock { $0?.accept() } }

    /// Lets another thread look for work if all sleep.
    func kick() { wake.signal() }
    func drainKick() { wake.drain() }

    // MARK: Figures

    /// Bytes of the arena that are taken.
    public var usedBytes: UInt64 { configuration.arenaBytes - control.withLock { $0.arena.freeBytes } }
    /// Programs that have joined.
    public var sessionCount: Int { control.withLock { $0.sessions.count } }
    /// Regions that this node manages.
    public var regionCount: Int { control.withLock { $0.regions.count } }
    /// Other nodes that are connected.
    public var memberCount: Int { control.withLock { $0.members.count } }
    /// Locks that this node manages.
    public var lockCount: Int { control.withLock { $0.locks.count } }
    /// Programs that wait for them.
    public var waitersOfLocks: Int { control.withLock { $0.locks.values.reduce(0) { $0 + $1.queue.count } } }
    /// Requests that wait to be received, and receivers that wait for requests.
    public var requestCount: Int { functions.all.reduce(0) { $0 + $1.requestCount } }
    public var receiverCount: Int { functions.all.reduce(0) { $0 + $1.receiverCount } }
    /// Barriers of this node at which somebody waits.
    public var barrierCount: Int { control.withLock { $0.barriers.count } }
}

/// What an epoll event is about; other tokens are session numbers.
enum EventToken {
    static let wake: UInt64 = 0
    static let listener: UInt64 = .max
}

/// Cycles of the time-stamp counter, for moments on the hot path.
enum CycleClock {
    /// Measured once; some 10 ms.
    private static let perMicrosecond: Double = {
        let before = (lego_cycle_count(), monotonicNanoseconds())
        while monotonicNanoseconds() - before.1 < 5_000_000 { lego_spin_pause() }
        let after = (lego_cycle_count(), monotonicNanoseconds())
        return Double(after.0 - before.0) / Double(after.1 - before.1) * 1000
    }()

    static func cycles(in span: Duration) -> UInt64 {
        let (seconds, attoseconds) = span.components
        let microseconds = Double(seconds) * 1e6 + Double(attoseconds) / 1e12
        return UInt64(microseconds * perMicrosecond)
    }
}
