import ArgumentParser
import Daemon
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
        let component = try ComponentFrame(
            context, kind: Self.component, poolBytes: context.settings[MemoryKeys.size])
        var configuration = MemoryServiceConfiguration()
        configuration.prefault = context.settings[MemoryKeys.prefault]
        let service = try MemoryService(
            node: component.node, configuration: configuration, logger: context.logger)
        return try component.run(peerLost: { service.peerLost($0) }, stop: { service.stop() }) {
            var hooks = ComponentHooks()
            hooks.capacityBytes = service.capacityBytes
            hooks.usedBytes = { service.usedBytes }
            hooks.registered = { _, manager in service.managerChanged(to: manager) }
            return hooks
        }
    }
}
