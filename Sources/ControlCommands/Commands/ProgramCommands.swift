import ArgumentParser
import Glibc
import Kernel
import ManagementAPI
import Wire

struct LogsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "logs", abstract: "Print what a detached program has written so far, to both outputs.")

    @OptionGroup var options: RackOptions
    @Argument(help: ArgumentHelp("The program, as 'ps' numbers it.", valueName: "id"))
    var id: ProgramNumber

    func run() throws {
        let attachment = try options.client().logs(id.value)
        let attach = try AttachConnection(attachment, program: id.value, mode: .logs)
        signal(SIGPIPE, SIG_IGN)
        var pump = try StreamPump(attach, input: nil, signals: [])
        switch try pump.run() {
        case .ended, .endOfStream, .interrupted, .left: break
        case .refused(let reason): throw CommandFailure(reason)
        }
    }
}

struct KillCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "kill", abstract: "Send a signal to a program.",
        discussion: "KILL ends the whole program with all its processes; other signals reach its first process.")

    @OptionGroup var options: RackOptions
    @Option(name: .short, help: ArgumentHelp("The signal's name or number (default: TERM).", valueName: "signal"))
    var signal = "TERM"
    @Argument(help: ArgumentHelp("The program, as 'ps' numbers it.", valueName: "id"))
    var id: ProgramNumber

    func run() throws {
        guard let number = SignalName.number(signal) else {
            throw CommandFailure.usage(
                "-s is \"\(Output.printable(signal))\"; allowed: a number from 1 to 64 or one of "
                    + SignalName.all.map(\.name).joined(separator: ", "))
        }
        try options.client().signal(id.value, number)
    }
}

struct WaitCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "wait", abstract: "Wait until a program has ended, and end as it did.")

    @OptionGroup var options: RackOptions
    @Argument(help: ArgumentHelp("The program, as 'ps' numbers it.", valueName: "id"))
    var id: ProgramNumber

    func run() throws {
        let client = try options.client()
        var program: ProgramStatus
        repeat { program = try client.wait(id.value, seconds: 25) } while program.state == .running
        ProgramEnd(program).leave(program: id.value, name: program.name)
    }
}

/// Signals by name.
enum SignalName {
    static let all: [(name: String, number: Int)] = [
        ("HUP", 1), ("INT", 2), ("QUIT", 3), ("ILL", 4), ("TRAP", 5), ("ABRT", 6), ("BUS", 7), ("FPE", 8), ("KILL", 9),
        ("USR1", 10), ("SEGV", 11), ("USR2", 12), ("PIPE", 13), ("ALRM", 14), ("TERM", 15), ("STKFLT", 16),
        ("CHLD", 17), ("CONT", 18), ("STOP", 19), ("TSTP", 20), ("TTIN", 21), ("TTOU", 22), ("URG", 23), ("XCPU", 24),
        ("XFSZ", 25), ("VTALRM", 26), ("PROF", 27), ("WINCH", 28), ("IO", 29), ("PWR", 30), ("SYS", 31),
    ]

    /// `TERM`, `SIGTERM`, `term` or `15`; nil for anything else.
    static func number(_ text: String) -> Int? {
        if let number = Int(text) { return (1...64).contains(number) ? number : nil }
        let upper = text.uppercased()
        let name = upper.hasPrefix("SIG") ? String(upper.dropFirst(3)) : upper
        return all.first { $0.name == name }?.number
    }

    /// `SIGTERM`; `signal 40` for one without a name.
    static func name(_ number: Int) -> String {
        all.first { $0.number == number }.map { "SIG\($0.name)" } ?? "signal \(number)"
    }
}
