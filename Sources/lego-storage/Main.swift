import ArgumentParser
import Daemon
import Glibc
import Lite
import Logging
import RackConfiguration
import StorageService
import Wire

@main
struct LegoStorage: DaemonCommand {
    static let configuration = CommandConfiguration(
        commandName: "lego-storage",
        abstract: "A storage component of a rack: the tree of files that the rack's programs see.",
        discussion: """
            Joins the manager at --manager and serves until SIGTERM or SIGINT. While the manager is away it serves on. Needs root.
            Configuration: flags, then the file of --config, then defaults; Configs/storage.toml explains every key.
            Example: lego-storage --manager 10.0.0.1:7070 --listen 10.0.0.3:0 --tree directory --path /srv/programs
            """)
    static let component = ComponentKind.storage
    static let schema = StorageKeys.schema

    @OptionGroup var frame: FrameOptions
    @OptionGroup var member: MemberOptions
    @Option(
        help: ArgumentHelp(
            "overlay: show PATH and keep changes in the state directory; directory: export PATH itself.",
            valueName: "kind"))
    var tree: String?
    @Option(help: ArgumentHelp("The directory that programs see as their root.", valueName: "path"))
    var path: String?
    @Option(help: ArgumentHelp("Where an overlay keeps what programs changed.", valueName: "dir"))
    var state: String?
    @Option(help: ArgumentHelp("A directory of this host that programs must not see.", valueName: "dir"))
    var hide: String?

    var flags: [SettingFlag?] {
        member.flags + [
            SettingFlag("--tree", StorageKeys.tree, tree), SettingFlag("--path", StorageKeys.path, path),
            SettingFlag("--state", StorageKeys.state, state), SettingFlag("--hide", StorageKeys.hide, hide),
        ]
    }

    func prepare(_ settings: Settings) throws {
        if geteuid() != 0 { throw DaemonError("a storage component needs root; start it with sudo") }
        do { try StorageService.enterPrivateMounts() } catch { throw DaemonError.noMountNamespace(error) }
    }

    func launch(_ context: DaemonContext) throws -> any RunningDaemon {
        let settings = context.settings
        let path = settings[StorageKeys.path]
        var configuration = StorageConfiguration(
            export: settings[StorageKeys.tree] == "overlay"
                ? .overlay(lower: path, stateDirectory: settings[StorageKeys.state]) : .directory(path))
        configuration.isReadOnly = settings[StorageKeys.isReadOnly]
        configuration.hidden = [settings[StorageKeys.hide]].filter { !$0.isEmpty }
        let workers = configuration.stagingBuffers
        let component = try ComponentFrame(
            context, kind: Self.component, poolBytes: UInt64(configuration.poolBytes)
        ) { $0.workers = workers }
        let service = try StorageService(node: component.node, configuration: configuration, logger: context.logger)
        // The tree before the node: no processor asks a component that has none yet.
        try service.start()
        return try component.run(stop: { service.stop() }) {
            var hooks = ComponentHooks()
            hooks.capacityBytes = service.capacityBytes
            hooks.usedBytes = { service.usedBytes }
            return hooks
        }
    }
}
