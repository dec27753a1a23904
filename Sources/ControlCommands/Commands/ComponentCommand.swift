import ArgumentParser
import Glibc
import Kernel
import ManagementAPI
import RackConfiguration

struct ComponentCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "component", abstract: "Kill a component to see what depends on it, and start it again.",
        subcommands: [ComponentKillCommand.self, ComponentStartCommand.self])
}

/// Which component of which rack.
struct ComponentOptions: ParsableArguments {
    @OptionGroup var options: RackOptions
    @Option(help: ArgumentHelp("The rack's directory (default: that of the last rack).", valueName: "dir"))
    var state: String?
    @Argument(help: ArgumentHelp("The component, as 'status' names it.", valueName: "name"))
    var name: String

    /// The record of the rack, where it was started on this machine.
    func record() throws(CommandFailure) -> RackRecord? {
        guard let directory = try RackFinder.stateDirectory(option: state, rack: options.rack) else { return nil }
        return try RackRecord.load(from: directory)
    }

    /// The component of that record, or the names that there are.
    func component(in record: RackRecord) throws(CommandFailure) -> RackRecord.Component {
        if let component = record.components.first(where: { $0.name == name }) { return component }
        let known = byLikeness(record.components.map(\.name), to: name).joined(separator: ", ")
        throw CommandFailure("the rack has no component '\(Output.printable(name))'; its components: \(known)")
    }
}

struct ComponentKillCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "kill", abstract: "End a component at once, as SIGKILL does. Needs root.")

    @OptionGroup var target: ComponentOptions

    func run() throws {
        try Privilege.require(for: "component kill")
        if let record = try target.record() {
            try kill(try target.component(in: record), in: record)
            return
        }
        guard ComponentName.isValid(target.name) else {
            throw CommandFailure.usage("no component can be called \"\(Output.printable(target.name))\"")
        }
        try target.options.client().killComponent(target.name)
    }

    /// A component of this machine is killed here: that works without the manager, and returns when it is gone.
    private func kill(_ component: RackRecord.Component, in record: RackRecord) throws(CommandFailure) {
        guard record.bootID == Host.bootID, let process = HeldProcess(component.identity) else {
            throw CommandFailure(
                "\(component.name) does not run; start it with 'legoctl component start \(component.name)'")
        }
        process.signal(SIGKILL)
        if !process.waitForEnd(until: .after(.seconds(5))) {
            throw CommandFailure("\(component.name) (process \(component.pid)) did not end within 5 s of SIGKILL")
        }
    }
}

struct ComponentStartCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "start", abstract: "Start a component of the rack on this machine again. Needs root.")

    @OptionGroup var target: ComponentOptions

    func run() throws {
        try Privilege.require(for: "component start")
        guard var record = try target.record() else {
            throw CommandFailure(
                "no rack on this machine is known; start one with 'legoctl rack up', or name its directory with --state"
            )
        }
        let lock = try RackLock(stateDirectory: record.stateDirectory)
        let component = try target.component(in: record)
        if record.isAlive(component) {
            throw CommandFailure("\(component.name) runs already, as process \(component.pid)")
        }
        chdir("/")
        umask(0o022)
        let commitment = try StartCommitment()
        let process = try DaemonProcess(
            name: component.name, executable: component.executable, arguments: component.arguments,
            log: "\(record.stateDirectory)/log/\(component.name).log", commitment: commitment)
        do {
            DaemonProcess.awaitReadiness(of: [process], until: .after(RackStarter.limit))
            if case .failed(let reason) = process.outcome {
                throw CommandFailure("\(component.name) did not start: \(reason)")
            }
            let started = try RackStarter.component(component.kind, process, arguments: component.arguments)
            record.components = record.components.map { $0.name == component.name ? started : $0 }
            commitment.hold()
            try record.save()
        } catch {
            DaemonProcess.stop([process], within: .seconds(5))
            throw error
        }
        commitment.commit()
        _ = consume lock
        if component.kind == "manager" { Self.awaitMembers(of: record) }
    }

    /// The components notice a new manager within a second. Until they have joined it, no program can start.
    private static func awaitMembers(of record: RackRecord) {
        let names = record.components.filter { $0.kind != "manager" && record.isAlive($0) }.map(\.name)
        guard let client = try? ManagementClient(address: record.address) else { return }
        let deadline = Deadline.after(.seconds(3))
        while !deadline.hasPassed {
            let healthy = (try? client.status())?.components.filter { $0.health == "healthy" }.map(\.name) ?? []
            if Set(names).isSubset(of: healthy) { return }
            // The API tells of no changes: ask again a little later.
            poll(nil, 0, 50)
        }
    }
}
