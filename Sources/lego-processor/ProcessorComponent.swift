import Daemon
import Fabric
import Glibc
import Kernel
import Lite
import Logging
import ProcessorService
import RackConfiguration
import StorageMount
import Synchronization
import Wire

/// The parts of a processor component and how they hold on to each other: the node, the mount of the storage
/// component's tree, the programs, and the membership that tells them of each other's ends.
final class ProcessorComponent: Sendable {
    /// Requests to the storage component that are under way at a time.
    private static let mountThreads = 4
    /// Part of the pool for the programs' transfers, some 3 MiB each while it runs. Memory is taken only where it is
    /// used.
    private static let programPool_bytes = 1 << 30
    private static let placeLimit = Duration.seconds(10)
    /// How long the start of a program waits for a storage component that is away.
    private static let storageLimit = Duration.seconds(3)
    private static let reportLimit = Duration.seconds(2)

    private let context: DaemonContext
    private let frame: ComponentFrame
    private let storage: PeerFollower
    private let mount: StorageMount
    private let service: ProcessorService
    private let gate: ReadinessGate
    private let release = Mutex<MountRelease?>(nil)

    init(_ context: DaemonContext) throws {
        self.context = context
        let settings = context.settings
        let mountBytes = StorageMount.bufferBytes(threads: Self.mountThreads)
        let frame = try ComponentFrame(
            context, kind: .processor, poolBytes: UInt64(mountBytes + Self.programPool_bytes)
        ) { configuration in
            configuration.messageBytes_max = ComponentFrame.submissionBytes_max
            configuration.callsPerPeer_max = ComponentFrame.submissionCalls_max
            // Nobody reads or writes a processor's pool but the storage component, which moves file data.
            configuration.workers = 4
        }
        self.frame = frame
        let notices = Notices()
        storage = try PeerFollower(
            node: frame.node, kind: .storage, logger: context.logger, connected: { notices.storageConnected() })
        let state = settings[ProcessorKeys.state]
        let tree = state + "/tree"
        try Self.makeDirectories(state: state, tree: tree)
        let pool = PoolAllocator(pool: frame.node.pool)
        guard let buffers = pool.allocate(bytes: mountBytes) else { throw DaemonError("the node's pool is too small") }
        let follower = storage
        mount = try StorageMount(
            node: frame.node, storage: { follower.current() }, buffers: buffers, mountPoint: tree,
            threads: Self.mountThreads, logger: context.logger, coreBegins: { notices.coreBegins($0) })
        var configuration = ProcessorConfiguration(
            excacheBytes: settings[ProcessorKeys.excache], stateDirectory: state,
            attachListen: FabricAddress(settings[ProcessorKeys.attach]))
        configuration.logBytes_max = settings[ProcessorKeys.logSize]
        configuration.temporaryBytes = settings[ProcessorKeys.temporarySize]
        service = try ProcessorService(
            node: frame.node, buffers: pool, configuration: configuration,
            hooks: Self.hooks(frame.manager, storage: storage, mount: mount), place: Self.place(frame.manager),
            logger: context.logger)
        let readiness = context.readiness
        let address = frame.node.address.description
        gate = ReadinessGate(isConnected: { follower.current() != nil }) { name in
            readiness.report(.ready(name: name, liteAddress: address, apiAddress: ""))
        }
        notices.set(mount: mount, gate: gate, service: service)
    }

    private static func makeDirectories(state: String, tree: String) throws {
        for path in [state, tree] where mkdir(path, 0o755) < 0 && errno != EEXIST {
            throw DaemonError(
                "cannot make the directory \(path): \(KernelError.text(errno)); name another with --state")
        }
    }

    /// Asks the manager where memory shall live. While it is away, the program waits.
    private static func place(_ manager: ManagerLinkPromise)
        -> @Sendable (ProgramID, [NodeID]) -> (
            Status, ManagerProcessorPlace?
        )
    {
        { program, excluded in
            guard let link = manager.link else { return (.busy, nil) }
            let result = link.call(
                RackFunction.placeRegion, ProcessorManagerPlace(program: program, excluded: excluded),
                answer: ManagerProcessorPlace.self, until: .after(placeLimit))
            return (result.status, result.response)
        }
    }

    private static func hooks(_ manager: ManagerLinkPromise, storage: PeerFollower, mount: StorageMount)
        -> ProcessorHooks
    {
        ProcessorHooks(
            name: { manager.link?.name ?? "processor" },
            isManager: { manager.link?.isManager($0) == true },
            tree: {
                // A storage component that has just come back is known here with the next heartbeat.
                guard storage.current(until: .after(storageLimit)) != nil else { return nil }
                return storage.name.map { StorageTree(path: mount.mountPoint, name: $0) }
            },
            refreshTree: { mount.refresh() },
            report: { manager.link?.report($0, until: .after(reportLimit)) == true })
    }

    /// Starts everything and joins the rack.
    func run() throws -> any RunningDaemon {
        try frame.run(
            announcesReadiness: false,
            peerLost: { [self] peer in
                storage.peerLost(peer)
                // What a memory component held for this processor ends with the connection: it frees it at once.
                service.componentLost(peer.id)
            },
            leave: { [self] in
                service.stop()
                mount.unmount()
                storage.stop()
                release.withLock { $0.take() }?.stop()
            },
            start: { [self] in
                let process = try service.releaseMounts(and: mount.mountPoint)
                release.withLock { $0 = process }
                try storage.start()
                try mount.mount()
                try service.start()
                return componentHooks()
            })
    }

    private func componentHooks() -> ComponentHooks {
        var hooks = ComponentHooks()
        hooks.capacityBytes = context.settings[ProcessorKeys.excache]
        hooks.usedBytes = { [service] in service.usedBytes }
        hooks.attachAddress = service.attachAddress
        hooks.rackMemory = { [service] in service.rackMemory.set(total: $0, used: $1) }
        hooks.reports = { [service] in service.runningReports() }
        hooks.registered = { [gate] name, _ in gate.registered(as: name) }
        hooks.membershipChanged = { [self] members in
            storage.membershipChanged(members)
            mount.storageChanged()
            for member in members where member.health == .lost {
                if member.kind == .memory { service.componentLost(member.node) }
                // A host that vanished leaves its connection open: what waits on it ends now, not at its own deadline.
                if let peer = frame.node.peer(member.node) { frame.node.beginDisconnect(peer) }
            }
            gate.membershipChanged(members)
        }
        return hooks
    }
}
