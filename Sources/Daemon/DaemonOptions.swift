import ArgumentParser
import RackConfiguration

/// Flags of every daemon.
public struct FrameOptions: ParsableArguments {
    @Option(help: ArgumentHelp("Read the configuration from FILE (TOML). Flags win over it.", valueName: "file"))
    public var config: String?

    @Option(
        help: ArgumentHelp("Where the rack's components connect to this one; port 0: any.", valueName: "host:port"))
    public var listen: String?

    @Option(
        help: ArgumentHelp(
            "How to reach the others: automatic, network, verbs, tcp or shared-memory.", valueName: "path"))
    public var fabric: String?

    @Option(help: ArgumentHelp("The RDMA adapter (default: the one of the --listen address).", valueName: "name"))
    public var adapter: String?

    @Option(
        help: ArgumentHelp(
            "trace, debug, info, notice, warning, error or critical. Entries go to standard error.", valueName: "level")
    )
    public var logLevel: String?

    @Option(
        help: ArgumentHelp(
            "Write one line to this socket when the component is ready, or why it is not.", valueName: "n"))
    public var readyFd: Int32?

    @Option(
        help: ArgumentHelp(
            "With --ready-fd: go on after the socket's end only if this eventfd has been signalled.", valueName: "n"))
    public var keepFd: Int32?

    public init() {}

    func flags(listen key: ConfigurationKey<NetworkAddress>) -> [SettingFlag?] {
        [
            SettingFlag("--listen", key, listen), SettingFlag("--fabric", CommonKeys.fabric, fabric),
            SettingFlag("--adapter", CommonKeys.adapter, adapter),
            SettingFlag("--log-level", CommonKeys.logLevel, logLevel),
        ]
    }
}

/// Flags of the daemons that join a manager.
public struct MemberOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The manager of the rack to join.", valueName: "host:port"))
    public var manager: String?

    @Option(help: ArgumentHelp("The component's name in the rack (default: the manager chooses).", valueName: "name"))
    public var name: String?

    public init() {}

    /// For `DaemonCommand.flags`.
    public var flags: [SettingFlag?] {
        [SettingFlag("--manager", CommonKeys.manager, manager), SettingFlag("--name", CommonKeys.name, name)]
    }
}
