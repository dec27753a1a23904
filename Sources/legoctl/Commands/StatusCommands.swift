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

struct StatsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stats", abstract: "Show a program's memory counters.",
        discussion: """
            Faults and pages count events since the start (pages of 4 KiB). Resident bytes are in the processor's ExCache, \
            remote bytes in memory components.
            """)

    @OptionGroup var options: RackOptions
    @Argument(help: ArgumentHelp("The program, as 'ps' numbers it.", valueName: "id"))
    var id: ProgramNumber
    @Flag(help: "Print JSON.")
    var json = false

    func run() throws {
        let stats = try options.client().statistics(id.value)
        if json {
            try Output.json(stats)
            return
        }
        func pages(_ count: UInt64) -> String { "\(count) pages (\(ByteSize.readable(count << 12)))" }
        Output.table(
            [
                ["faults", "\(stats.faults)"], ["zero fills", pages(stats.zeroFills)],
                ["remote reads", pages(stats.remoteReadPages)], ["remote writes", pages(stats.remoteWritePages)],
                ["evicted", pages(stats.evictedPages)],
                ["resident", "\(ByteSize.readable(stats.residentBytes)), at most \(peak(stats.peakResidentBytes))"],
                ["remote", "\(ByteSize.readable(stats.remoteBytes)), at most \(peak(stats.peakRemoteBytes))"],
            ]
                + stats.perMemory.sorted { $0.key < $1.key }.map { ["in \($0.key)", ByteSize.readable($0.value)] })
    }

    private func peak(_ bytes: UInt64) -> String { ByteSize.readable(bytes) }
}

/// A program's number on the command line.
struct ProgramNumber: ExpressibleByArgument {
    let value: UInt64

    init?(argument: String) {
        guard let value = UInt64(argument), value > 0 else { return nil }
        self.value = value
    }
}
