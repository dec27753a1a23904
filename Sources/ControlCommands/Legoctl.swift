import ArgumentParser
import Glibc
import ManagementAPI
import RackConfiguration

/// The command line of legoctl.
package struct Legoctl: ParsableCommand {
    package init() {}

    package static let configuration = CommandConfiguration(
        commandName: "legoctl",
        abstract: "Starts a rack of components and runs programs on it.",
        discussion: """
            A rack is found through --rack ADDRESS, else through LEGO_RACK, else it is the last that this user started.
            Exit status: 0; 1 when something failed; 64 for a wrong command line; 'run', 'exec' and 'wait' end as the program did, \
            with 125 when the rack lost it, 126 when it cannot be executed, and 127 when there is no such program.
            """,
        subcommands: [
            RackCommand.self, RunCommand.self, AttachCommand.self, ExecCommand.self, PsCommand.self, LogsCommand.self,
            KillCommand.self, WaitCommand.self,
            StatsCommand.self, StatusCommand.self, FabricCommand.self, ComponentCommand.self,
        ])

    package static func main() {
        StandardStreams.openMissing()
        Glibc.exit(run(Variables.arguments))
    }

    /// Runs a command line; answers the exit status.
    static func run(_ arguments: [String]) -> Int32 {
        var command: any ParsableCommand
        do {
            command = try parseCommand(RackFinder.takeLeadingOption(arguments))
        } catch {
            return report(parsing: error)
        }
        do {
            try command.run()
            return 0
        } catch {
            return report(running: error)
        }
    }

    /// A subcommand is parsed by itself: the parser reflects upon every command below the one that it is asked of, which for all
    /// of them takes longer than most do. Where that fails the whole is asked, for its message.
    private static func parseCommand(_ arguments: [String]) throws -> any ParsableCommand {
        if let name = arguments.first,
            let type = configuration.subcommands.first(where: { $0.configuration.commandName == name }),
            let command = try? type.parseAsRoot(Array(arguments.dropFirst()))
        {
            return command
        }
        return try parseAsRoot(arguments)
    }

    private static func report(running error: any Error) -> Int32 {
        switch error {
        case let failure as CommandFailure:
            Output.complain(failure.description)
            return failure.exitStatus
        case let failure as ManagementError:
            Output.complain(failure.advice)
            if case .refused(_, let refusal) = failure, let status = refusal.exitStatus {
                return Int32(clamping: status)
            }
            return 1
        case let failure as ConfigurationError:
            Output.complain(failure.description)
            return failure.exitStatus
        default:
            // Help that was asked for comes as an error, too.
            if exitCode(for: error).isSuccess {
                Output.write(fullMessage(for: error) + "\n")
                return 0
            }
            Output.complain("\(error)")
            return 1
        }
    }

    private static func report(parsing error: any Error) -> Int32 {
        let code = exitCode(for: error)
        let text = fullMessage(for: error)
        if code.isSuccess {
            Output.write(text + "\n")
        } else {
            // The parser's last line names the help of the command that was meant.
            let help = text.firstMatch(of: #/See '([^']+)' for more/#).map { String($0.1) } ?? "legoctl --help"
            let message = message(for: error).split(whereSeparator: \.isNewline).first ?? "wrong arguments"
            Output.complain("\(message) (see \(help))")
        }
        return code.rawValue
    }
}

extension ManagementError {
    /// The message with what to do about it.
    var advice: String {
        guard case .unreachable(_, let reason) = self else { return description }
        if reason.hasSuffix("refused") {
            return "\(self); start it with 'legoctl component start manager', or a rack with 'legoctl rack up'"
        }
        return description
    }
}

/// The three standard descriptors.
enum StandardStreams {
    /// Opens those that the caller left closed, so that no other file takes their numbers: input at its end, outputs
    /// discarded.
    static func openMissing() {
        for number in Int32(0)...2 where fcntl(number, F_GETFD) < 0 {
            // The lowest free number is taken: this one, since all below are open.
            _ = open("/dev/null", number == 0 ? O_RDONLY : O_WRONLY)
        }
    }
}
