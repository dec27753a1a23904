import ArgumentParser
import Daemon
import Fabric
import Glibc
import Lite
import Logging
import ManagerService
import RackConfiguration
import Wire

@main
struct LegoManager: DaemonCommand {
    static let configuration = CommandConfiguration(
        commandName: "lego-manager",
        abstract: "The global resource manager of a rack: membership, placement, and the API for legoctl.",
        discussion: """
            Runs until SIGTERM or SIGINT. Programs run on while the manager is away; a manager that comes back at the same \
            address with the same state directory takes the rack over again.
            Configuration: flags, then the file of --config, then defaults; Configs/manager.toml explains every key.
            Example: lego-manager --listen 10.0.0.1:7070 --api 127.0.0.1:7071 --state /var/lib/lego/manager
            """)
    static let component = ComponentKind.manager
    static let schema = ManagerKeys.schema
    static let listenKey = ManagerKeys.listen

    @OptionGroup var frame: FrameOptions
    @Option(help: ArgumentHelp("Where legoctl connects (HTTP, this host only); port 0: any.", valueName: "host:port"))
    var api: String?
    @Option(help: ArgumentHelp("Where the table of programs is kept.", valueName: "dir"))
    var state: String?
    @Option(help: ArgumentHelp("How long a component may be silent before it is lost.", valueName: "time"))
    var lease: String?

    var flags: [SettingFlag?] {
        [
            SettingFlag("--api", ManagerKeys.api, api), SettingFlag("--state", ManagerKeys.state, state),
            SettingFlag("--lease", ManagerKeys.lease, lease),
        ]
    }

    func launch(_ context: DaemonContext) throws -> any RunningDaemon {
        let settings = context.settings
        let node = try ComponentFrame.makeNode(
            context, name: Self.component.word, listen: Self.listenKey, poolBytes: 64 << 10
        ) { configuration in
            configuration.messageBytes_max = ComponentFrame.submissionBytes_max
            configuration.callsPerPeer_max = ComponentFrame.submissionCalls_max
            configuration.workers = 4
        }
        var configuration = ManagerConfiguration(stateDirectory: settings[ManagerKeys.state])
        configuration.apiListen = FabricAddress(settings[ManagerKeys.api])
        configuration.lease = settings[ManagerKeys.lease]
        configuration.messageBytes_max = ComponentFrame.submissionBytes_max
        let service: ManagerService
        do {
            service = try ManagerService(node: node, configuration: configuration, logger: context.logger)
        } catch {
            node.close()
            throw error
        }
        let manager = RunningManager(node: node, service: service)
        do {
            try node.start()
            let api = try service.start()
            context.logger.info("serving", metadata: ["components": "\(node.address)", "api": "\(api)"])
            context.readiness.report(
                .ready(
                    name: Self.component.word, liteAddress: node.address.description, apiAddress: api.description))
        } catch {
            manager.stop()
            throw error
        }
        return manager
    }
}

private final class RunningManager: RunningDaemon {
    private let node: RackNode
    private let service: ManagerService

    init(node: RackNode, service: ManagerService) {
        self.node = node
        self.service = service
    }

    func stop() {
        service.stop()
        node.close()
    }
}
