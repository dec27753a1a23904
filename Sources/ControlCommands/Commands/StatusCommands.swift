import ArgumentParser
import ManagementAPI
import RackConfiguration

struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Show the rack's components: health, capacity, use.",
        discussion:
            "A component is suspect while its connection is broken or its heartbeat late, and lost after its lease.")

    @OptionGroup var options: RackOptions
    @Flag(help: "Print JSON.")
    var json = false

    func run() throws {
        let status = try options.client().status()
        if json { try Output.json(status) } else { Self.printTable(status) }
    }

    static func printTable(_ status: RackStatus) {
        let rows = status.components.map { component in
            // What has no capacity of its own has nothing to show.
            let hasCapacity = component.capacityBytes > 0
            return [
                component.name, component.kind, component.health,
                hasCapacity ? ByteSize.readable(component.capacityBytes) : "-",
                hasCapacity ? ByteSize.readable(component.usedBytes) : "-",
            ]
        }
        Output.table([["NAME", "KIND", "HEALTH", "CAPACITY", "USED"]] + rows)
    }
}

struct PsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ps", abstract: "List the programs that run; with -a also those that have ended.")

    @OptionGroup var options: RackOptions
    @Flag(name: .shortAndLong, help: "Include programs that have ended.")
    var all = false
    @Flag(help: "Print JSON.")
    var json = false

    func run() throws {
        let programs = try options.client().programs(all: all)
        if json {
            try Output.json(programs)
        } else {
            Output.table(
                [["ID", "NAME", "STATE", "END", "PROCESSOR", "MEMORIES", "USER", "COMMAND", "REASON"]]
                    + programs.map(Self.row))
        }
    }

    static func row(_ program: ProgramStatus) -> [String] {
        let end: String =
            if let signal = program.signal, signal != 0 {
                SignalName.name(signal)
            } else if let status = program.exitStatus {
                String(status)
            } else {
                "-"
            }
        let command = program.command.joined(separator: " ")
        return [
            "\(program.id)", program.name, program.state.rawValue, end, program.processor,
            program.memories.isEmpty ? "-" : program.memories.joined(separator: ","), program.user,
            command.count > 40 ? command.prefix(39) + "…" : command, program.reason ?? "",
        ]
    }
}

/// A program's number on the command line.
struct ProgramNumber: ExpressibleByArgument {
    let value: UInt64

    init?(argument: String) {
        guard let value = UInt64(argument), value > 0 else { return nil }
        self.value = value
    }
}
