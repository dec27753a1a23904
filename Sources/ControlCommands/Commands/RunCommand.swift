import ArgumentParser
import Glibc
import Kernel
import ManagementAPI
import RackConfiguration
import Wire

struct RunCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run", abstract: "Run a program on the rack as if it ran here.",
        usage: "legoctl run [<options>] -- <program> [<argument> ...]",
        discussion: """
            The program gets this command's input, environment and directory, and its signals; its outputs and its end are \
            this command's. It runs as the user who calls; under sudo as the user who called sudo; called by root itself, as \
            nobody, which a line on standard error says unless --user names somebody. With -it, Ctrl-P Ctrl-Q leaves the \
            program's terminal, and 'legoctl attach' comes back to it. Exit status 125: the rack lost the program, and the reason is on standard error.
            """)

    @OptionGroup var options: RackOptions
    @Option(help: ArgumentHelp("Keep at most SIZE of its memory in the ExCache at a time.", valueName: "size"))
    var excache: String?
    @Option(
        name: .customLong("env"), parsing: .unconditionalSingleValue,
        help: ArgumentHelp("Set an environment variable; may be repeated.", valueName: "name=value"))
    var variables: [String] = []
    @Option(help: ArgumentHelp("Its working directory in the rack's tree (default: this one).", valueName: "dir"))
    var cwd: String?
    @Option(
        help: ArgumentHelp(
            "Let it have at most SIZE of memory, local and remote together; beyond, it is killed.", valueName: "size"))
    var memory: String?
    @Option(
        help: ArgumentHelp("Let it run on these CPUs of its processor only, e.g. 0,2-3.", valueName: "list"))
    var cpus: String?
    @OptionGroup var terminal: TerminalOptions
    @Option(help: ArgumentHelp("A name for 'ps' (default: that of the program).", valueName: "name"))
    var name: String?
    @Option(help: ArgumentHelp("Run as another user; for root only.", valueName: "user"))
    var user: String?
    @Flag(help: "Do not wait: print the program's number. Its output goes to 'legoctl logs'.")
    var detach = false
    @Argument(
        parsing: .captureForPassthrough,
        help: ArgumentHelp(
            "The program, as a path or a name to be found in PATH, and its arguments.", valueName: "program"))
    var command: [String] = []

    func run() throws {
        // Everything from the first word on is the program's, and help is asked for in its place.
        if command.first == "--help" || command.first == "-h" { throw CleanExit.helpRequest(self) }
        let request = try submission()
        let client = try options.client()
        let submitted = try client.submit(request)
        for line in (submitted.notice ?? "").split(whereSeparator: \.isNewline) {
            Output.complain(Output.printable(String(line)))
        }
        if detach {
            Output.write("\(submitted.id)\n")
            return
        }
        let title = name ?? Self.baseName(request.arguments[0])
        switch try AttachedRun.carry(submitted.attachment, program: submitted.id, mode: .streams, terminal) {
        case .interrupted(let number): AttachedRun.die(by: number)
        case .ended(let exit): ProgramEnd(exit).leave(program: submitted.id, name: title)
        case .refused(let reason): throw CommandFailure(reason, exitStatus: ProgramEnd.lostStatus)
        case .left: AttachedRun.sayLeft(program: submitted.id)
        case .endOfStream:
            try Self.endAfterLoss(client, submitted.id, submitted.processor).leave(program: submitted.id, name: title)
        }
    }

    /// The processor went away: what became of the program, the manager knows after the lease.
    static func endAfterLoss(_ client: ManagementClient, _ id: UInt64, _ processor: String) throws -> ProgramEnd {
        let lost = "the connection to \(processor) broke"
        let deadline = Deadline.after(.seconds(8))
        repeat {
            do {
                let program = try client.wait(id, seconds: 2)
                if program.state != .running { return ProgramEnd(program) }
            } catch {
                return .lost(reason: "\(lost), and what became of it is not known: \(error)")
            }
        } while !deadline.hasPassed
        return .lost(reason: "\(lost), and it still runs; see 'legoctl ps'")
    }

    /// Everything the manager wants to know, checked.
    func submission() throws(CommandFailure) -> SubmitRequest {
        let arguments = command.first == "--" ? Array(command.dropFirst()) : command
        if let first = command.first, first != "--", first.hasPrefix("-") {
            throw .usage("unknown option '\(Output.printable(first))' (see legoctl run --help)")
        }
        guard let program = arguments.first, !program.isEmpty else {
            throw .usage("no program is named; write it after --, as in: legoctl run -- /bin/echo hello")
        }
        let bytes = try Self.size("--excache", excache)
        let memoryBytes = try Self.size("--memory", memory)
        if let cpus, ProcessorSet(cpus)?.isEmpty != false {
            throw .usage("--cpus is \"\(Output.printable(cpus))\"; allowed: numbers and ranges such as 0,2-3")
        }
        if detach, terminal.hasTerminal || terminal.isInteractive {
            throw .usage("--detach excludes -i and -t: nobody would sit at the program's terminal")
        }
        if let name, !ComponentName.isValid(name) {
            throw .usage("--name is \"\(Output.printable(name))\"; allowed: \(ComponentName.allowed)")
        }
        guard let directory = cwd ?? Files.currentDirectory, directory.hasPrefix("/") else {
            throw .usage(
                cwd.map { "--cwd is \"\(Output.printable($0))\"; allowed: an absolute path" }
                    ?? "the current directory does not exist any more; name another with --cwd")
        }
        return SubmitRequest(
            arguments: arguments, environment: try environment(), workingDirectory: directory, name: name,
            excacheBytes: bytes, user: user ?? Self.invokingUser, isDetached: detach,
            // The caller's own directory need not be there; one that was asked for must be.
            mayStartElsewhere: cwd == nil, terminal: try terminal.size(), memoryBytes: memoryBytes, processors: cpus)
    }

    private static func size(_ option: String, _ text: String?) throws(CommandFailure) -> UInt64? {
        guard let text else { return nil }
        guard let bytes = ByteSize.parse(text), bytes >= 1 << 20 else {
            throw .usage("\(option) is \"\(Output.printable(text))\"; allowed: a size such as 64MiB, at least 1MiB")
        }
        return bytes
    }

    /// The caller's own variables with those of `--env` in place of theirs.
    private func environment() throws(CommandFailure) -> [String] {
        try Variables.merge(Variables.own.filter { $0.contains("=") }, with: variables)
    }

    /// Under sudo, the user who called it: by name, as their groups follow from it, else by number (sudo(8)).
    private static var invokingUser: String? {
        guard getuid() == 0 else { return nil }
        let number = RackFinder.environment("SUDO_UID") ?? ""
        let name = RackFinder.environment("SUDO_USER") ?? ""
        // Root that calls sudo is root.
        if number == "0" || name == "root" { return nil }
        return [name, number].first { !$0.isEmpty }
    }

    static func baseName(_ path: String) -> String { path.split(separator: "/").last.map(String.init) ?? path }
}
