import ArgumentParser
import Glibc
import ManagementAPI
import Wire

struct ExecCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "exec", abstract: "Run a command inside a running program.",
        usage: "legoctl exec [<options>] <id> -- <command> [<argument> ...]",
        discussion: """
            The command runs as the program's user, in its namespaces (files, processes, IPC), with its environment, and its \
            memory lies behind the same share of the ExCache. Its streams, signals and end are this command's. It ends at \
            the latest with the program.
            """)

    @OptionGroup var options: RackOptions
    @OptionGroup var terminal: TerminalOptions
    @Option(
        name: .customLong("env"), parsing: .unconditionalSingleValue,
        help: ArgumentHelp("Set an environment variable; may be repeated.", valueName: "name=value"))
    var variables: [String] = []
    @Option(help: ArgumentHelp("Its working directory (default: where the program was started).", valueName: "dir"))
    var cwd: String?
    @Argument(
        parsing: .captureForPassthrough,
        help: ArgumentHelp("The program, as 'ps' numbers it, and the command with its arguments.", valueName: "id"))
    var words: [String] = []

    func run() throws {
        // Everything from the first word on is captured, and help is asked for in its place.
        if words.first == "--help" || words.first == "-h" { throw CleanExit.helpRequest(self) }
        let (id, command) = try target()
        var variables = try Variables.merge([], with: variables)
        let size = try terminal.size()
        if size != nil, !variables.contains(where: { $0.hasPrefix("TERM=") }) {
            variables += Variables.own.filter { $0.hasPrefix("TERM=") }
        }
        if let cwd, !cwd.hasPrefix("/") {
            throw CommandFailure.usage("--cwd is \"\(Output.printable(cwd))\"; allowed: an absolute path")
        }
        let request = JoinRequest(
            arguments: command, environment: variables, workingDirectory: cwd, terminal: size)
        let attachment = try options.client().join(id, request)
        switch try AttachedRun.carry(attachment, program: id, mode: .joined, terminal) {
        case .interrupted(let number): AttachedRun.die(by: number)
        case .ended(let exit): ProgramEnd(exit).leave(program: id, name: RunCommand.baseName(command[0]))
        case .refused(let reason): throw CommandFailure(reason, exitStatus: ProgramEnd.lostStatus)
        case .endOfStream, .left:
            throw CommandFailure("the connection to program \(id) broke", exitStatus: ProgramEnd.lostStatus)
        }
    }

    private func target() throws(CommandFailure) -> (UInt64, [String]) {
        guard let first = words.first else {
            throw .usage("no program is named; write its number, as in: legoctl exec 3 -- /bin/ps")
        }
        guard let id = ProgramNumber(argument: first) else {
            throw .usage(
                "\"\(Output.printable(first))\" is no program's number; 'legoctl ps' lists them "
                    + "(see legoctl exec --help)")
        }
        let command = Array(words.dropFirst(words.dropFirst().first == "--" ? 2 : 1))
        guard let name = command.first, !name.isEmpty else {
            throw .usage("no command is named; write it behind --, as in: legoctl exec \(id.value) -- /bin/ps")
        }
        return (id.value, command)
    }
}
