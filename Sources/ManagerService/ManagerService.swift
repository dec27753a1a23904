import Fabric
import Kernel
import Lite
import Logging
import Synchronization
import Wire

/// The global resource manager: membership, placement, the table of programs, and the HTTP API. The data path never
/// goes through it; a rack runs on while its manager is away.
///
/// Order of life: make it, `node.start()`, `start()`; at the end `stop()`, then `node.close()`.
public final class ManagerService: Sendable {
    /// Threads for what blocks, and tasks that may wait for one. A start takes a thread until the processor has
    /// answered.
    private static let workers = 8
    private static let waitingTasks_max = 256

    /// Held until `stop`.
    private let directory: Mutex<StateDirectory?>
    let control: RackControl
    private let pool: WorkerPool
    private let reactions: WorkerPool
    private let ticker: Ticker
    private let server: APIServer
    private let configuration: ManagerConfiguration

    /// Takes up the state that an earlier process left in `configuration.stateDirectory`, and registers the manager's
    /// functions and the node's `onPeerLost`.
    public convenience init(node: RackNode, configuration: ManagerConfiguration, logger: Logger) throws(ManagerError) {
        try self.init(
            node: node, configuration: configuration, logger: logger, users: SystemUserDatabase(),
            now: monotonicNanoseconds)
    }

    /// With another source of users and of time (monotonic nanoseconds).
    init(
        node: RackNode, configuration: ManagerConfiguration, logger: Logger, users: any UserDatabase,
        now: @escaping @Sendable () -> UInt64
    ) throws(ManagerError) {
        self.configuration = configuration
        let directory = try StateDirectory(configuration.stateDirectory)
        let path = try directory.privateFile("manager.sqlite")
        self.directory = Mutex(directory)
        let store = try ManagerStore(path: path, results_max: configuration.results_max)
        do {
            pool = try WorkerPool(name: "lego-work", threads: Self.workers, waiting_max: Self.waitingTasks_max)
            // Their number is bounded by what can be lost: components and programs.
            reactions = try WorkerPool(name: "lego-react", threads: 2, waiting_max: .max)
            ticker = try Ticker()
        } catch {
            throw .system("\(error)")
        }
        do {
            control = try RackControl(
                node: node, configuration: configuration, store: store, pool: pool, reactions: reactions,
                logger: logger, now: now)
        } catch {
            pool.stop()
            reactions.stop()
            throw .store(path: path, reason: "\(error)")
        }
        server = APIServer(
            responder: APIResponder(control: control, users: users, logger: logger), logger: logger)
        registerFunctions(node)
    }

    /// Starts to watch leases and to serve the API; answers where that listens. Blocks for moments: not on the
    /// concurrency pool.
    public func start() throws(ManagerError) -> FabricAddress { try start(ticking: true) }

    /// Without the ticker, somebody else calls `control.tick`.
    func start(ticking: Bool) throws(ManagerError) -> FabricAddress {
        do {
            if ticking { try ticker.start { [control] in control.tick(late: $0) } }
        } catch {
            throw .system("\(error)")
        }
        do {
            return try server.start(on: configuration.apiListen)
        } catch {
            ticker.stop()
            throw error
        }
    }

    /// Ends the API and the threads and gives the state directory up; whoever waits for a program is answered.
    /// Idempotent.
    public func stop() {
        ticker.stop()
        control.waiters.close()
        server.stop()
        // A call that is still under way would hold its thread until its deadline.
        for peer in control.node.peers { control.node.disconnect(peer) }
        pool.stop()
        reactions.stop()
        directory.withLock { $0 = nil }
    }

    private func registerFunctions(_ node: RackNode) {
        let control = control
        node.register(
            RackFunction.registerComponent, ComponentManagerRegister.self, ManagerComponentRegistered.self
        ) { control.register($0, $1) }
        node.register(RackFunction.heartbeat, ComponentManagerHeartbeat.self, ManagerComponentHeartbeat.self) {
            control.heartbeat($0, $1)
        }
        node.register(RackFunction.membership, ComponentManagerMembership.self, ManagerComponentMembership.self) {
            peer, _ in control.membership(peer)
        }
        node.register(RackFunction.placeRegion, ProcessorManagerPlace.self, ManagerProcessorPlace.self) {
            control.place($0, $1)
        }
        node.register(RackFunction.programReport, ProcessorManagerReport.self, Acknowledgement.self) {
            control.report($0, $1)
        }
        node.onPeerLost { control.peerLost($0) }
    }
}
