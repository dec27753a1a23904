import ArgumentParser
import CLinux
import Daemon
import Fabric
import Kernel
import Lite
import LiteService
import Logging
import MemoryService
import RackConfiguration
import Wire

@main
struct LegoMemory: DaemonCommand {
    static let configuration = CommandConfiguration(
        commandName: "lego-memory",
        abstract: "A memory component of a rack: a pool of memory that the rack's programs use over RDMA.",
        discussion: """
            Joins the manager at --manager and serves until SIGTERM or SIGINT. While the manager is away it serves on.
            Configuration: flags, then the file of --config, then defaults; Configs/memory.toml explains every key.
            Example: lego-memory --manager 10.0.0.1:7070 --listen 10.0.0.2:0 --size 16GiB
            """)
    static let component = ComponentKind.memory
    static let schema = MemoryKeys.schema

    @OptionGroup var frame: FrameOptions
    @OptionGroup var member: MemberOptions
    @Option(help: ArgumentHelp("The pool that is offered to the rack, e.g. 512MiB.", valueName: "size"))
    var size: String?

    var flags: [SettingFlag?] { member.flags + [SettingFlag("--size", MemoryKeys.size, size)] }

    func launch(_ context: DaemonContext) throws -> any RunningDaemon {
        let settings = context.settings
        let servesLite = !settings[MemoryKeys.liteSocket].isEmpty
        let size = settings[MemoryKeys.size] & ~4095
        let arena = servesLite ? settings[MemoryKeys.liteArena] & ~4095 : 0
        let component = try ComponentFrame(context, kind: Self.component, poolBytes: size + arena) { lite in
            if !servesLite { return }
            lite.messageBytes_max = LiteService.messageBytes
            lite.queuePairsPerPeer = 4
            lite.workers = 16
        }
        var configuration = MemoryServiceConfiguration()
        configuration.poolBytes = Int(size)
        configuration.prefault = settings[MemoryKeys.prefault]
        let service = try MemoryService(
            node: component.node, configuration: configuration, logger: context.logger)
        let lite = servesLite ? try makeLite(context, component.node, arena) : nil
        return try component.run(
            peerLost: { service.peerLost($0) }, leave: { lite?.stop() }, stop: { service.stop() }
        ) {
            try lite?.start()
            var hooks = ComponentHooks()
            hooks.capacityBytes = service.capacityBytes
            hooks.usedBytes = { service.usedBytes }
            hooks.registered = { _, manager in service.managerChanged(to: manager) }
            hooks.membershipChanged = { members in
                lite?.learn(members.filter { $0.kind == .memory }.compactMap { FabricAddress($0.liteAddress) })
            }
            return hooks
        }
    }

    /// LITE for this host's programs, on the same node: its arena is the end of the pool.
    private func makeLite(_ context: DaemonContext, _ node: RackNode, _ arena: UInt64) throws -> LiteService {
        _ = try checked("setrlimit", lego_raise_descriptor_limit())
        let name = context.settings[CommonKeys.name]
        var configuration = LiteServiceConfiguration(
            name: name.isEmpty ? "\(node.address)" : name, socketPath: context.settings[MemoryKeys.liteSocket],
            arenaBytes: arena)
        configuration.joinsPages = context.settings[MemoryKeys.hugePages] == HugePages.automatic.rawValue
        return try LiteService(node: node, configuration: configuration, logger: context.logger)
    }
}
