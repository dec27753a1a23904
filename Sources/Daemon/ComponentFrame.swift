import Fabric
import Glibc
import Kernel
import Lite
import Logging
import RackConfiguration
import Synchronization
import Wire

/// A component that joins a manager: its node, its membership, and the order in which they start and stop. A daemon
/// makes one, makes its service with `node`, and runs it.
public final class ComponentFrame: Sendable {
    public let node: RackNode
    public let context: DaemonContext
    /// The way to the manager, for the service's calls.
    public let manager = ManagerLinkPromise()
    private let kind: ComponentKind
    private let desk: FabricDesk

    /// Opens the node: `poolBytes` of registered memory, whole pages. `adjust` may change the node's other sizes.
    public init(
        _ context: DaemonContext, kind: ComponentKind, poolBytes: UInt64,
        adjust: (inout LiteConfiguration) -> Void = { _ in }
    ) throws {
        self.context = context
        self.kind = kind
        let name = context.settings[CommonKeys.name]
        (node, desk) = try Self.makeParts(
            context, name: name.isEmpty ? kind.word : name, listen: CommonKeys.listen, poolBytes: poolBytes,
            adjust: adjust)
    }

    /// Opens the node of a daemon where its configuration says.
    public static func makeNode(
        _ context: DaemonContext, name: String, listen key: ConfigurationKey<NetworkAddress>, poolBytes: UInt64,
        adjust: (inout LiteConfiguration) -> Void = { _ in }
    ) throws -> RackNode {
        try makeParts(context, name: name, listen: key, poolBytes: poolBytes, adjust: adjust).node
    }

    private static func makeParts(
        _ context: DaemonContext, name: String, listen key: ConfigurationKey<NetworkAddress>, poolBytes: UInt64,
        adjust: (inout LiteConfiguration) -> Void
    ) throws -> (node: RackNode, desk: FabricDesk) {
        let listen = context.settings[key]
        if ["0.0.0.0", "::", "*"].contains(listen.host) {
            throw ConfigurationError(
                at: context.settings.origin(of: key), key: key.path, is: .text(listen.description),
                allowed: "an address of this host at which the other components reach it, not all addresses at once")
        }
        var configuration = LiteConfiguration(
            name: name, listen: FabricAddress(listen), poolBytes: Int(poolBytes) & ~4095)
        let desk = FabricDesk(context.settings, logger: context.logger)
        configuration.linkModel = { desk.model(of: $0) }
        adjust(&configuration)
        do {
            let device = try makeDevice(context, host: listen.host)
            return (try RackNode(device: device, configuration: configuration), desk)
        } catch LiteError.fabric(.cannotListen(let address, let reason)) {
            throw DaemonError("cannot listen on \(address): \(reason); choose another address with --listen")
        }
    }

    private static func makeDevice(_ context: DaemonContext, host: String) throws(LiteError) -> RackDevice {
        let settings = context.settings
        var configuration = HybridDeviceConfiguration(
            path: FabricPath(rawValue: settings[CommonKeys.fabric]) ?? .automatic, address: host)
        configuration.adapter = settings[CommonKeys.adapter]
        // The pools of the others are buffers.
        if settings.schema.keys.contains(where: { $0.path == MemoryKeys.hugePages.path }) {
            configuration.hugePages = HugePages(rawValue: settings[MemoryKeys.hugePages]) ?? .never
        }
        configuration.memoryNode = try node(context)
        do throws(FabricError) {
            let device = try RackDevice(configuration)
            if let absence = device.adapterAbsence {
                context.logger.debug("without an RDMA adapter", metadata: ["reason": "\(absence)"])
            }
            return device
        } catch {
            throw .fabric(error)
        }
    }

    /// Keeps this thread, and so all that the component starts, on the configured NUMA node; answers it. nil: wherever.
    private static func node(_ context: DaemonContext) throws(LiteError) -> Int? {
        let settings = context.settings
        let adapter = settings[CommonKeys.adapter]
        guard let node = settings[CommonKeys.numaNode] ?? MemoryNode.ofAdapter(adapter) else { return nil }
        do throws(FabricError) {
            try MemoryNode.run(on: node)
        } catch {
            throw .fabric(error)
        }
        if MemoryNode.count == 1 {
            context.logger.debug("one NUMA node: processors and memory are left as they are")
            return nil
        }
        context.logger.debug("on a NUMA node", metadata: ["node": "\(node)"])
        return node
    }

    /// Longest message between the manager and a processor, in bytes: a program's arguments and environment must fit.
    /// Linux takes 2 MiB with their pointers; a peer's buffers for as much would take twice the room.
    public static let submissionBytes_max = 1 << 20
    /// Calls to one peer that are under way at a time, where messages are so long; the others wait.
    public static let submissionCalls_max = 16

    /// Starts the node and joins the rack. `start` runs when the node already answers peers, and says what the manager
    /// is told. At the end, `leave` runs while the rack can still be reached, and `stop` after the node has closed. A
    /// component that is not ready when it is registered reports its readiness itself.
    public func run(
        announcesReadiness: Bool = true,
        peerLost: @escaping @Sendable (LitePeer) -> Void = { _ in },
        leave: @escaping @Sendable () -> Void = {},
        stop: @escaping @Sendable () -> Void = {},
        start: () throws -> ComponentHooks
    ) throws -> any RunningDaemon {
        let manager = manager
        node.register(RackFunction.terminate, ManagerComponentTerminate.self, Acknowledgement.self) { peer, _ in
            guard manager.link?.isManager(peer) == true else { return (.fenced, nil) }
            // The manager asks for a death without preparation; only the kernel can give one.
            kill(getpid(), SIGKILL)
            return (.ok, Acknowledgement())
        }
        desk.register(on: node) { manager.link?.isManager($0) == true }
        node.onPeerLost { peer in
            manager.link?.peerLost(peer)
            peerLost(peer)
        }
        do {
            try node.start()
            let link = try makeLink(try start(), announcesReadiness)
            manager.fulfill(link)
            try link.start()
            return RunningComponent(node: node, link: link, leave: leave, stop: stop)
        } catch {
            leave()
            node.close()
            stop()
            throw error
        }
    }

    private func makeLink(_ hooks: ComponentHooks, _ announcesReadiness: Bool) throws -> ManagerLink {
        var hooks = hooks
        let registered = hooks.registered
        let readiness = context.readiness
        let address = node.address.description
        hooks.registered = { name, manager in
            registered(name, manager)
            if announcesReadiness {
                readiness.report(.ready(name: name, liteAddress: address, apiAddress: ""))
            }
        }
        let membershipChanged = hooks.membershipChanged
        let (context, manager, desk, node) = (context, manager, desk, node)
        hooks.membershipChanged = { members in
            desk.membershipChanged(members, manager: manager.link?.managerNode, node)
            membershipChanged(members)
        }
        return try ManagerLink(
            node: node, kind: kind, name: context.settings[CommonKeys.name],
            manager: FabricAddress(context.settings[CommonKeys.manager]), hooks: hooks, logger: context.logger,
            fail: { context.fail($0) })
    }
}

/// The link to the manager, which exists only after the service that wants to call it.
public final class ManagerLinkPromise: Sendable {
    private let value = Mutex<ManagerLink?>(nil)

    init() {}

    func fulfill(_ link: ManagerLink) { value.withLock { $0 = link } }

    /// nil until the component joins.
    public var link: ManagerLink? { value.withLock { $0 } }
}

private final class RunningComponent: RunningDaemon {
    private let node: RackNode
    private let link: ManagerLink
    private let leaveRack: @Sendable () -> Void
    private let stopService: @Sendable () -> Void

    init(
        node: RackNode, link: ManagerLink, leave: @escaping @Sendable () -> Void, stop: @escaping @Sendable () -> Void
    ) {
        self.node = node
        self.link = link
        self.leaveRack = leave
        self.stopService = stop
    }

    func stop() {
        leaveRack()
        link.stop()
        node.close()
        stopService()
    }
}
