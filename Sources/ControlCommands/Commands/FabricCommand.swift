import ArgumentParser
import ManagementAPI
import RackConfiguration
import Wire

struct FabricCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "fabric", abstract: "Show, measure and slow down the links between components.",
        subcommands: [FabricShowCommand.self, FabricMeasureCommand.self, FabricLinkCommand.self],
        defaultSubcommand: FabricShowCommand.self)
}

struct FabricShowCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Show devices and links: which path each took, and why.",
        discussion: """
            A link is written from the component that made it. FORTH and BACK are the bytes that went each way, whoever \
            asked for them; MODEL is what the operations of either end take the time of.
            """)

    @OptionGroup var options: RackOptions
    @Flag(help: "Print JSON.")
    var json = false

    func run() throws {
        let status = try options.client().fabric()
        if json { return try Output.json(status) }
        Output.table(
            [["COMPONENT", "DEVICE", "REGIONS", "REGISTERED", "LINKS", "QUEUE PAIRS", "NOTE"]]
                + status.devices.map {
                    [
                        $0.component, $0.device, "\($0.regions)", ByteSize.readable($0.registeredBytes), "\($0.links)",
                        "\($0.queuePairs)", $0.note,
                    ]
                })
        Output.write("\n")
        Output.table(
            [["FROM", "TO", "PATH", "QUEUE PAIRS", "REQUESTS", "FORTH", "BACK", "MODEL", "WHY"]]
                + status.links.map {
                    [
                        $0.from, $0.to, $0.path, "\($0.queuePairs)", "\($0.requests)", ByteSize.readable($0.bytesForth),
                        ByteSize.readable($0.bytesBack), Self.model($0), $0.reason,
                    ]
                })
    }

    private static func model(_ link: FabricStatus.Link) -> String {
        let (forth, back) = (link.modelForth, link.modelBack)
        if forth == back { return forth.isEmpty ? "-" : forth }
        return (forth.isEmpty ? "off" : forth) + " / " + (back.isEmpty ? "off" : back)
    }
}

/// The name of a component on the command line.
struct LinkEnd: ExpressibleByArgument {
    let name: String

    init?(argument: String) {
        guard ComponentName.isValid(argument) else { return nil }
        name = argument
    }
}

struct FabricMeasureCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "measure", abstract: "Measure links by READs. Needs root.",
        discussion: """
            Without names every link is measured, in the direction in which memory can be read. Latency is the median of \
            READs of 64 bytes, one after the other; bandwidth is that of eight READs under way at a time.
            """)

    @OptionGroup var options: RackOptions
    @Argument(help: ArgumentHelp("The component that reads, as 'status' names it.", valueName: "from"))
    var from: LinkEnd?
    @Argument(help: ArgumentHelp("The component that is read from.", valueName: "to"))
    var to: LinkEnd?
    @Flag(help: "Print JSON.")
    var json = false

    func validate() throws {
        if from != nil, to == nil { throw ValidationError("name both ends of the link, or none") }
    }

    func run() throws {
        let client = try options.client()
        var figures: [LinkFigures] = []
        if let from, let to {
            figures = [try client.measureLink(from: from.name, to: to.name)]
        } else {
            for link in try client.fabric().links { figures += try measure(link, client) }
        }
        if json { return try Output.json(figures) }
        Output.table(
            [["FROM", "TO", "LATENCY", "64 KiB", "256 KiB", "1 MiB"]]
                + figures.map { figures in
                    [figures.from, figures.to, "\(Self.microseconds(figures.latency_ns)) us"]
                        + figures.bytesPerSecond.map { $0 == 0 ? "-" : "\(ByteSize.readable($0))/s" }
                })
    }

    /// The link in the direction in which it can be measured; a component that is gone meanwhile is passed over with a
    /// line.
    private func measure(_ link: FabricStatus.Link, _ client: ManagementClient) throws -> [LinkFigures] {
        var failure: ManagementError?
        for (from, to) in [(link.from, link.to), (link.to, link.from)] where ComponentName.isValid(from) {
            do throws(ManagementError) {
                return [try client.measureLink(from: from, to: to)]
            } catch {
                guard case .refused(let status, _) = error, status != 403 else { throw error }
                failure = failure ?? error
            }
        }
        if let failure { Output.complain(failure.description) }
        return []
    }

    private static func microseconds(_ nanoseconds: UInt64) -> String {
        let hundredths = (nanoseconds + 5) / 10
        let digits = hundredths % 100
        return "\(hundredths / 100).\(digits < 10 ? "0" : "")\(digits)"
    }
}

struct FabricLinkCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "link", abstract: "Let links take the time of other hardware.",
        subcommands: [FabricLinkSetCommand.self])
}

struct FabricLinkSetCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set", abstract: "Set or end the model of the link between two components. Needs root.",
        discussion: """
            MODEL: \(LinkModel.allowed); or off. A model adds time and takes none away. It holds until it is changed or \
            one of the two components ends.
            """)

    @OptionGroup var options: RackOptions
    @Argument(help: ArgumentHelp("One end of the link, as 'status' names it.", valueName: "a"))
    var first: LinkEnd
    @Argument(help: ArgumentHelp("The other end.", valueName: "b"))
    var second: LinkEnd
    @Argument(help: ArgumentHelp("The model.", valueName: "model"))
    var model: String

    func run() throws {
        guard model == "off" || LinkModel(model) != nil else {
            throw CommandFailure.usage(
                "there is no link model '\(Output.printable(model))'; there are: off, \(LinkModel.allowed)")
        }
        try options.client().setLinkModel(LinkModelRequest(from: first.name, to: second.name, model: model))
    }
}
