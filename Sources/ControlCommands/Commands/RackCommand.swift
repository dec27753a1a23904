import ArgumentParser
import Glibc
import ManagementAPI
import RackConfiguration

struct RackCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rack", abstract: "Start or stop a rack of daemons on this machine.",
        subcommands: [RackUpCommand.self, RackDownCommand.self])
}

struct RackUpCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "up", abstract: "Start a rack on this machine.",
        discussion: """
            Starts a manager and the other components as daemons, waits until all are healthy, and prints the manager's \
            address. When one fails, all are stopped again. Needs root. Logs: DIR/log/NAME.log. Configs/rack.toml explains \
            the configuration.
            """)

    @Option(help: ArgumentHelp("Read the rack's configuration from FILE (TOML). Flags win over it.", valueName: "file"))
    var config: String?
    @Option(help: ArgumentHelp("Processor components (default: 1).", valueName: "n"))
    var processors: String?
    @Option(help: ArgumentHelp("Memory components (default: 2).", valueName: "n"))
    var memories: String?
    @Option(help: ArgumentHelp("Storage components (default: 1).", valueName: "n"))
    var storages: String?
    @Option(help: ArgumentHelp("The pool of each memory component (default: 1GiB).", valueName: "size"))
    var memorySize: String?
    @Option(help: ArgumentHelp("The ExCache of each processor component (default: 1GiB).", valueName: "size"))
    var excache: String?
    @Option(help: ArgumentHelp("The rack's directory (default: /var/lib/lego/default).", valueName: "dir"))
    var state: String?
    @Flag(help: "Print JSON.")
    var json = false

    func run() throws {
        let settings = try Settings(
            schema: RackKeys.schema, file: config.map(ConfigurationReader.read),
            flags: [
                SettingFlag("--processors", RackKeys.processors, processors),
                SettingFlag("--memories", RackKeys.memories, memories),
                SettingFlag("--storages", RackKeys.storages, storages),
                SettingFlag("--memory-size", RackKeys.memorySize, memorySize),
                SettingFlag("--excache", RackKeys.excache, excache),
                SettingFlag("--state", RackKeys.state, state.map(Files.absolute)),
            ])
        try Privilege.require(for: "rack up")
        let directory = settings[RackKeys.state]
        let plan = try RackPlan(settings, stateDirectory: directory)
        umask(0o022)
        try Files.makeDirectory(directory)
        try Files.makeDirectory(plan.logDirectory, mode: 0o750)
        let lock = try RackLock(stateDirectory: directory)
        try Self.refuseIfUp(directory)
        // Relative paths have been resolved; a daemon keeps no other directory busy.
        chdir("/")
        var starter = try RackStarter(plan: plan)
        let (record, status) = try starter.start()
        _ = consume lock
        try report(record, status)
    }

    /// A record whose processes have all ended is of no more use: a crash or a reboot left it.
    static func refuseIfUp(_ directory: String) throws(CommandFailure) {
        guard let record = try RackRecord.load(from: directory) else { return }
        let alive = record.components.filter { record.isAlive($0) }
        if alive.isEmpty {
            RackFinder.forget(stateDirectory: directory)
            record.delete()
            return
        }
        let extent =
            alive.count == record.components.count
            ? "" : " (\(alive.count) of its \(record.components.count) components run)"
        throw CommandFailure(
            "a rack is up already in \(directory), at \(record.address)\(extent); stop it with "
                + "'legoctl rack down --state \(directory)', or start another with --state")
    }

    private func report(_ record: RackRecord, _ status: RackStatus) throws {
        if json {
            try Output.json(RackUpReport(address: record.address, components: status.components))
            return
        }
        StatusCommand.printTable(status)
        Output.write("the rack is up at \(record.address)\n")
    }
}

/// `rack up --json`.
struct RackUpReport: Codable {
    var address: String
    var components: [RackStatus.Component]
}

struct RackDownCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "down", abstract: "Stop the rack on this machine.",
        discussion: "Ends all programs of the rack and all its daemons. Needs root.")

    @Option(help: ArgumentHelp("The rack's directory (default: that of the last rack).", valueName: "dir"))
    var state: String?

    func run() throws {
        try Privilege.require(for: "rack down")
        let directory =
            try RackFinder.stateDirectory(option: state, rack: nil) ?? RackKeys.state.defaultValue
        guard Self.hasDirectory(directory), let record = try RackRecord.load(from: directory) else {
            throw CommandFailure("no rack is up in \(directory); name the directory of another with --state")
        }
        let lock = try RackLock(stateDirectory: directory)
        let (stopped, killed) = RackStopper.stop(record)
        RackFinder.forget(stateDirectory: directory)
        record.delete()
        _ = consume lock
        let names =
            killed.isEmpty ? "" : "; killed, because they did not stop in time: \(killed.joined(separator: ", "))"
        Output.write(
            stopped == 0
                ? "the rack in \(directory) had ended already; its records are removed\n"
                : "the rack in \(directory) is down\(names)\n")
    }

    private static func hasDirectory(_ path: String) -> Bool {
        var status = stat()
        return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
    }
}

/// Commands that only root can carry out.
enum Privilege {
    static func require(for command: String) throws(CommandFailure) {
        if geteuid() != 0 {
            throw CommandFailure("'legoctl \(command)' needs root; run 'sudo legoctl \(command)'")
        }
    }
}
