import ArgumentParser
import CLinux
import Glibc
import ManagementAPI
import Wire

/// The flags with which a program gets a terminal.
struct TerminalOptions: ParsableArguments {
    @Flag(
        name: [.customShort("i"), .customLong("interactive")],
        help: "Pass on standard input (with -t; without, it is passed on in any case).")
    var isInteractive = false
    @Flag(
        name: [.customShort("t"), .customLong("tty")],
        help: "Give the program a terminal of its own, the size of this one; with -i its keys come from here.")
    var hasTerminal = false

    /// The size of the terminal that was asked for; nil when none was.
    func size() throws(CommandFailure) -> TerminalSize? {
        if !hasTerminal { return nil }
        guard let size = RawTerminal.size else {
            throw .usage("-t needs a terminal on standard input, and this is none; leave -t out")
        }
        return size
    }
}

/// The time from the start of a program to its end, with this process's streams as the program's.
enum AttachedRun {
    /// Carries streams and signals until the end. The user's terminal is as it was before when this comes back.
    ///
    /// `isReturn`: the program's terminal may have another size than this one.
    static func carry(
        _ attachment: Attachment, program: UInt64, mode: AttachMode, _ terminal: TerminalOptions, isReturn: Bool = false
    ) throws -> StreamPump.Outcome {
        let connection = try AttachConnection(attachment, program: program, mode: mode)
        // A reader that leaves is told to the program, which then ends as it would here.
        signal(SIGPIPE, SIG_IGN)
        let hasTerminal = terminal.hasTerminal
        let sitsThere = hasTerminal && terminal.isInteractive
        var pump = try StreamPump(
            connection, input: hasTerminal && !terminal.isInteractive ? nil : 0,
            signals: sitsThere ? StreamPump.ofTerminal : StreamPump.forwarded, hasTerminal: sitsThere,
            mayLeave: sitsThere && mode == .streams)
        if isReturn { pump.noteResize() }
        return try pump.run()
    }

    /// What is said to a user who has left.
    static func sayLeft(program: UInt64) {
        Output.complain("left program \(program), which goes on; 'legoctl attach \(program)' comes back to it")
    }

    /// Ends this process as the signal would have.
    static func die(by number: Int32) -> Never {
        fflush(nil)
        lego_signal_die(number)
        exit(128 &+ number)
    }
}
