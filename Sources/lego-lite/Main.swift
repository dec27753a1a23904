import ArgumentParser
import CLinux
import Daemon
import Fabric
import Glibc
import Kernel
import Lite
import LiteService
import Logging
import RackConfiguration
import Wire

@main
struct LegoLite: DaemonCommand {
    static let configuration = CommandConfiguration(
        commandName: "lego-lite",
        abstract: "LITE for the programs of a host: remote memory, calls, locks and barriers of a cluster.",
        discussion: """
            Serves the programs that join at its socket (liblite.so, lite.h) until SIGTERM or SIGINT, together with \
            the nodes at --peers and all that they know.
            Configuration: flags, then the file of --config, then defaults; Configs/lite.toml explains every key.
            Example: lego-lite --listen 10.0.0.2:7090 --peers 10.0.0.1:7090 --arena 16GiB
            """)
    static let schema = LiteKeys.schema
    static let listenKey = LiteKeys.listen

    @OptionGroup var frame: FrameOptions
    @Option(help: ArgumentHelp("The node's name in the cluster (default: the host's name).", valueName: "name"))
    var name: String?
    @Option(help: ArgumentHelp("Other nodes of the cluster.", valueName: "host:port,..."))
    var peers: String?
    @Option(help: ArgumentHelp("Where programs of this host join.", valueName: "path"))
    var socket: String?
    @Option(help: ArgumentHelp("The memory that the node offers, e.g. 512MiB.", valueName: "size"))
    var arena: String?

    var flags: [SettingFlag?] {
        [
            SettingFlag("--name", LiteKeys.name, name), SettingFlag("--peers", LiteKeys.peers, peers),
            SettingFlag("--socket", LiteKeys.socket, socket), SettingFlag("--arena", LiteKeys.arena, arena),
        ]
    }

    /// Each program takes two descriptors and more.
    func prepare(_ settings: Settings) throws {
        _ = try checked("setrlimit", lego_raise_descriptor_limit())
    }

    func launch(_ context: DaemonContext) throws -> any RunningDaemon {
        let settings = context.settings
        let given = settings[LiteKeys.name]
        var configuration = LiteServiceConfiguration(
            name: given.isEmpty ? Self.hostName : given, socketPath: settings[LiteKeys.socket],
            arenaBytes: settings[LiteKeys.arena] & ~4095)
        configuration.peers = settings[LiteKeys.peers].map { FabricAddress($0) }
        configuration.threads = settings[LiteKeys.threads]
        configuration.threadsPerNode = settings[LiteKeys.threadsPerNode]
        configuration.bufferBytes_max = settings[LiteKeys.buffers]
        configuration.softwarePriority = settings[LiteKeys.softwarePriority]
        configuration.spin = settings[LiteKeys.spin]
        configuration.joinsPages = settings[MemoryKeys.hugePages] == HugePages.automatic.rawValue
        try Self.makeDirectory(of: configuration.socketPath)
        let node = try ComponentFrame.makeNode(
            context, name: Self.label, listen: Self.listenKey, poolBytes: configuration.arenaBytes
        ) { lite in
            lite.messageBytes_max = LiteService.messageBytes
            lite.queuePairsPerPeer = settings[LiteKeys.queuePairs]
            lite.reservedQueuePairs = settings[LiteKeys.reservedQueuePairs]
            // Handlers may ask third nodes: one that is silent holds some of them for a while.
            lite.workers = 16
        }
        do {
            let service = try LiteService(node: node, configuration: configuration, logger: context.logger)
            let daemon = RunningLite(node: node, service: service)
            do {
                try node.start()
                try service.start()
            } catch {
                daemon.stop()
                throw error
            }
            context.logger.info(
                "serving", metadata: ["nodes": "\(node.address)", "programs": "\(configuration.socketPath)"])
            context.readiness.report(
                .ready(name: configuration.name, liteAddress: node.address.description, apiAddress: ""))
            return daemon
        } catch {
            node.close()
            throw error
        }
    }

    private static var hostName: String {
        var bytes = [CChar](repeating: 0, count: 65)
        guard gethostname(&bytes, 64) == 0, bytes[0] != 0 else { return "node" }
        return bytes.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
    }

    /// The last directory of the socket's path, if it is not there.
    private static func makeDirectory(of path: String) throws {
        guard let slash = path.lastIndex(of: "/"), slash > path.startIndex else { return }
        let directory = String(path[..<slash])
        if mkdir(directory, 0o755) < 0, errno != EEXIST {
            throw DaemonError(
                "cannot make \(directory): \(String(cString: strerror(errno))); choose another socket with --socket")
        }
    }
}

private final class RunningLite: RunningDaemon {
    private let node: RackNode
    private let service: LiteService

    init(node: RackNode, service: LiteService) {
        self.node = node
        self.service = service
    }

    func stop() {
        service.stop()
        node.close()
    }
}
