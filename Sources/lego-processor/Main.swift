import ArgumentParser
import Daemon
import Glibc
import Logging
import ProcessorService
import RackConfiguration
import Wire

@main
struct LegoProcessor: DaemonCommand {
    static let configuration = CommandConfiguration(
        commandName: "lego-processor",
        abstract: "A processor component of a rack: runs its programs.",
        discussion: """
            Joins the manager at --manager and serves until SIGTERM or SIGINT, which also ends its programs. While the manager is \
            away programs run on. Needs root, Linux 6.8 or later, and /dev/fuse.
            Configuration: flags, then the file of --config, then defaults; Configs/processor.toml explains every key.
            Example: lego-processor --manager 10.0.0.1:7070 --listen 10.0.0.4:0 --attach 10.0.0.4:0 --excache 2GiB
            """)
    static let component = ComponentKind.processor
    static let schema = ProcessorKeys.schema

    @OptionGroup var frame: FrameOptions
    @OptionGroup var member: MemberOptions
    @Option(help: ArgumentHelp("The ExCache that all programs share, e.g. 512MiB.", valueName: "size"))
    var excache: String?
    @Option(help: ArgumentHelp("Where legoctl connects to programs' streams; port 0: any.", valueName: "host:port"))
    var attach: String?
    @Option(help: ArgumentHelp("Where the output of detached programs is kept.", valueName: "dir"))
    var state: String?
    @Option(help: ArgumentHelp("How much of a detached program's output is kept.", valueName: "size"))
    var logSize: String?
    @Option(help: ArgumentHelp("The size of a program's private /tmp.", valueName: "size"))
    var tmpSize: String?

    var flags: [SettingFlag?] {
        member.flags + [
            SettingFlag("--excache", ProcessorKeys.excache, excache),
            SettingFlag("--attach", ProcessorKeys.attach, attach),
            SettingFlag("--state", ProcessorKeys.state, state),
            SettingFlag("--log-size", ProcessorKeys.logSize, logSize),
            SettingFlag("--tmp-size", ProcessorKeys.temporarySize, tmpSize),
        ]
    }

    func prepare(_ settings: Settings) throws {
        if geteuid() != 0 { throw DaemonError("a processor component needs root; start it with sudo") }
        try ProcessorRequirements.check()
        do { try ProcessorService.enterPrivateMounts() } catch { throw DaemonError.noMountNamespace(error) }
    }

    func launch(_ context: DaemonContext) throws -> any RunningDaemon {
        try ProcessorComponent(context).run()
    }
}
