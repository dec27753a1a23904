import ArgumentParser
import Glibc
import Kernel
import ManagementAPI
import RackConfiguration

struct StatsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stats", abstract: "Show memory counters of a program, or of all that run.",
        discussion: """
            Faults and pages count events since the start (pages of 4 KiB). Resident bytes are in the processor's ExCache, \
            remote bytes in memory components. With --watch they are shown again after each interval, in place where \
            standard output is a terminal, else as one line for each program, until the program has ended.
            """)

    @OptionGroup var options: RackOptions
    @Flag(name: .shortAndLong, help: "Show them again and again.")
    var watch = false
    @Option(help: ArgumentHelp("How long to wait in between (default: 1s).", valueName: "span"))
    var interval: String?
    @Flag(help: "Print JSON; with --watch, one line each time.")
    var json = false
    @Argument(help: ArgumentHelp("The program, as 'ps' numbers it (default: all that run).", valueName: "id"))
    var id: ProgramNumber?

    func run() throws {
        let pause = try span()
        let client = try options.client()
        if !watch {
            if let id { return try show(client.statistics(id.value)) }
            let found = try all(client)
            return try json ? Output.json(found.map(\.stats)) : Output.table(Self.rows(found))
        }
        while true {
            let isOver = try showOnce(client)
            if isOver { return }
            let deadline = Deadline.after(pause)
            while !deadline.hasPassed { poll(nil, 0, deadline.pollMilliseconds) }
        }
    }

    private func span() throws(CommandFailure) -> Duration {
        guard let interval else { return .seconds(1) }
        if !watch { throw .usage("--interval is of use with --watch only") }
        guard let span = TimeSpan.parse(interval), span >= .milliseconds(100), span <= .seconds(3600) else {
            throw .usage("--interval is \"\(Output.printable(interval))\"; allowed: a time span from 100ms to 60min")
        }
        return span
    }

    /// One program's counters and its name.
    private struct Found {
        var name: String
        var stats: ProgramStats
    }

    private func all(_ client: ManagementClient) throws -> [Found] {
        try client.programs(all: false).compactMap { program in
            // One that is forgotten between the two questions is not there.
            (try? client.statistics(program.id)).map { Found(name: program.name, stats: $0) }
        }
    }

    /// Shows what there is at this moment; answers whether it will not change any more.
    private func showOnce(_ client: ManagementClient) throws -> Bool {
        var found: [Found] = []
        var isOver = false
        if let id {
            let program = try client.program(id.value)
            isOver = program.state != .running
            found = [Found(name: program.name, stats: try client.statistics(id.value))]
        } else {
            found = try all(client)
        }
        if json {
            for one in found { try Output.json(one.stats, isLine: true) }
        } else if isatty(1) == 1 {
            // Home, and clear to the end: no flicker as with a whole clear first.
            Output.write("\u{1b}[H\u{1b}[J")
            Output.table(Self.rows(found))
        } else {
            for one in found { Output.write(Self.line(one)) }
        }
        return isOver
    }

    private static func rows(_ found: [Found]) -> [[String]] {
        [["ID", "NAME", "FAULTS", "ZERO FILLS", "READS", "WRITES", "EVICTED", "RESIDENT", "REMOTE"]]
            + found.map { one in
                [
                    "\(one.stats.id)", one.name, "\(one.stats.faults)", "\(one.stats.zeroFills)",
                    "\(one.stats.remoteReadPages)", "\(one.stats.remoteWritePages)", "\(one.stats.evictedPages)",
                    ByteSize.readable(one.stats.residentBytes), ByteSize.readable(one.stats.remoteBytes),
                ]
            }
    }

    private static func line(_ one: Found) -> String {
        let stats = one.stats
        let fields = [
            "id=\(stats.id)", "name=\(Output.printable(one.name))", "faults=\(stats.faults)",
            "zero-fills=\(stats.zeroFills)", "remote-reads=\(stats.remoteReadPages)",
            "remote-writes=\(stats.remoteWritePages)", "evicted=\(stats.evictedPages)",
            "resident=\(stats.residentBytes)", "remote=\(stats.remoteBytes)",
        ]
        return fields.joined(separator: " ") + "\n"
    }

    private func show(_ stats: ProgramStats) throws {
        if json { return try Output.json(stats) }
        func pages(_ count: UInt64) -> String { "\(count) pages (\(ByteSize.readable(count << 12)))" }
        func size(_ bytes: UInt64) -> String { ByteSize.readable(bytes) }
        Output.table(
            [
                ["faults", "\(stats.faults)"], ["zero fills", pages(stats.zeroFills)],
                ["remote reads", pages(stats.remoteReadPages)], ["remote writes", pages(stats.remoteWritePages)],
                ["evicted", pages(stats.evictedPages)],
                ["resident", "\(size(stats.residentBytes)), at most \(size(stats.peakResidentBytes))"],
                ["remote", "\(size(stats.remoteBytes)), at most \(size(stats.peakRemoteBytes))"],
            ]
                + stats.perMemory.sorted { $0.key < $1.key }.map { ["in \($0.key)", size($0.value)] })
    }
}
