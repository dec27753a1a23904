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
            nobody, which a line on standard error says unless --user names somebody. Exit status 125: the rack lost the program, and the reason is on standard error.
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
        let connection = try AttachConnection(submitted.attachment, program: submitted.id, mode: .streams)
        // A reader that leaves is told to the program, which then ends as it would here.
        signal(SIGPIPE, SIG_IGN)
        var pump = try StreamPump(
            connection, input: 0, signals: [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGTSTP])
        let title = name ?? Self.baseName(request.arguments[0])
        switch try pump.run() {
        case .ended(let exit): ProgramEnd(exit).leave(program: submitted.id, name: title)
        case .refused(let reason): throw CommandFailure(reason, exitStatus: ProgramEnd.lostStatus)
        case .endOfStream:
            try Self.endAfterLoss(client, submitted, title).leave(program: submitted.id, name: title)
        }
    }

    /// The processor went away: what became of the program, the manager knows after the lease.
    private static func endAfterLoss(_ client: ManagementClient, _ submitted: Submitted, _ title: String) throws
        -> ProgramEnd
    {
        let lost = "the connection to \(submitted.processor) broke"
        let deadline = Deadline.after(.seconds(8))
        repeat {
            do {
                let program = try client.wait(submitted.id, seconds: 2)
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
        var bytes: UInt64?
        if let excache {
            bytes = ByteSize.parse(excache)
            if bytes == nil || bytes! < 1 << 20 {
                throw .usage(
                    "--excache is \"\(Output.printable(excache))\"; allowed: a size such as 64MiB, at least 1MiB")
            }
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
            mayStartElsewhere: cwd == nil)
    }

    /// The caller's own variables with those of `--env` in place of theirs.
    private func environment() throws(CommandFailure) -> [String] {
        var texts = Variables.own.filter { $0.contains("=") }
        for variable in variables {
            guard let equals = variable.firstIndex(of: "="), equals > variable.startIndex else {
                throw .usage("--env is \"\(Output.printable(variable))\"; allowed: NAME=VALUE")
            }
            let name = variable[...equals]
            texts.removeAll { $0.hasPrefix(name) }
            texts.append(variable)
        }
        return texts
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

    private static func baseName(_ path: String) -> String { path.split(separator: "/").last.map(String.init) ?? path }
}
