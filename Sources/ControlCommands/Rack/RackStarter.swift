import Glibc
import Kernel
import ManagementAPI

/// Starts the daemons of a rack, all of them or none.
struct RackStarter: ~Copyable {
    /// How long the start of a whole rack may take.
    static let limit = Duration.seconds(15)

    let plan: RackPlan
    private let commitment: StartCommitment
    /// All daemons started so far.
    private var started: [(plan: RackPlan.Daemon, process: DaemonProcess)] = []

    init(plan: RackPlan) throws(CommandFailure) {
        self.plan = plan
        commitment = try StartCommitment()
    }

    /// Starts everything, records it, and lets the daemons go. On failure nothing is left.
    mutating func start() throws(CommandFailure) -> (record: RackRecord, status: RackStatus) {
        do {
            let deadline = Deadline.after(Self.limit)
            let addresses = try startManager(until: deadline)
            let manager = ["--manager", addresses.lite]
            try launch(plan.stores.map { Self.adding(manager, to: $0) }, until: deadline)
            try launch(plan.processors.map { Self.adding(manager, to: $0) }, until: deadline)
            let status = try checkHealth(at: addresses.api)
            let record = try record(addresses)
            commitment.hold()
            // All bookkeeping first: a command that is killed before it lets the daemons go takes them along, and what
            // it wrote names processes that have ended.
            try record.save()
            try RackFinder.remember(.init(address: record.address, stateDirectory: plan.stateDirectory))
            commitment.commit()
            return (record, status)
        } catch {
            DaemonProcess.stop(started.reversed().map(\.process), within: .seconds(5))
            RackFinder.forget(stateDirectory: plan.stateDirectory)
            unlink(RackRecord.path(in: plan.stateDirectory))
            throw error
        }
    }

    private static func adding(_ arguments: [String], to daemon: RackPlan.Daemon) -> RackPlan.Daemon {
        var daemon = daemon
        daemon.arguments = arguments + daemon.arguments
        return daemon
    }

    private mutating func startManager(until deadline: Deadline) throws(CommandFailure) -> (lite: String, api: String) {
        try launch([plan.manager], until: deadline)
        guard case .ready(let lite, let api) = started[0].process.outcome, !lite.isEmpty, !api.isEmpty else {
            throw CommandFailure("manager did not start: it does not say where it listens")
        }
        // A manager that is started again must be found where the components and the users look for it.
        for (flag, address) in [("--listen", lite), ("--api", api)] {
            guard let index = started[0].plan.arguments.firstIndex(of: flag) else { continue }
            started[0].plan.arguments[index + 1] = address
        }
        return (lite, api)
    }

    private mutating func launch(_ daemons: [RackPlan.Daemon], until deadline: Deadline) throws(CommandFailure) {
        for daemon in daemons {
            let process = try DaemonProcess(
                name: daemon.name, executable: "\(RackPlan.executableDirectory)/\(daemon.executableName)",
                arguments: daemon.arguments, log: "\(plan.logDirectory)/\(daemon.name).log", commitment: commitment)
            started.append((daemon, process))
        }
        let processes = started.suffix(daemons.count).map(\.process)
        DaemonProcess.awaitReadiness(of: processes, until: deadline)
        for process in processes {
            if case .failed(let reason) = process.outcome {
                throw CommandFailure("\(process.name) did not start: \(reason)")
            }
        }
    }

    /// Asks the manager whether it sees every component.
    private func checkHealth(at address: String) throws(CommandFailure) -> RackStatus {
        let status: RackStatus
        do {
            status = try ManagementClient(address: address).status()
        } catch {
            throw CommandFailure("the rack did not start: \(error)")
        }
        for daemon in plan.stores + plan.processors {
            let health = status.components.first { $0.name == daemon.name }?.health
            if health != "healthy" {
                throw CommandFailure("\(daemon.name) did not start: the manager sees it as \(health ?? "absent")")
            }
        }
        return status
    }

    private func record(_ addresses: (lite: String, api: String)) throws(CommandFailure) -> RackRecord {
        var components: [RackRecord.Component] = []
        for (daemon, process) in started {
            components.append(try Self.component(daemon.kind, process, arguments: daemon.arguments))
        }
        return RackRecord(
            address: addresses.api, stateDirectory: plan.stateDirectory, bootID: Host.bootID, components: components)
    }

    /// The record of a daemon that is ready; `arguments` start it again.
    static func component(_ kind: String, _ process: DaemonProcess, arguments: [String]) throws(CommandFailure)
        -> RackRecord.Component
    {
        guard case .ready(let lite, _) = process.outcome, let identity = process.identity else {
            throw CommandFailure("\(process.name) ended right after its start; see \(process.log)")
        }
        return RackRecord.Component(
            name: process.name, kind: kind, pid: process.pid, startTime: identity.startTime, liteAddress: lite,
            executable: process.executable, arguments: arguments)
    }
}
