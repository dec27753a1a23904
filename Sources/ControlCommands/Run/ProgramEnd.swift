import CLinux
import Glibc
import ManagementAPI
import Wire

/// How a program ended, and how this command ends after it.
enum ProgramEnd: Equatable {
    /// By itself; `reason` says why when it did not even start (status 126 or 127).
    case exited(Int32, reason: String)
    /// By a signal; `reason` is not empty when the rack sent it.
    case signaled(Int32, reason: String)
    /// A component that the program depended on was lost.
    case lost(reason: String)

    /// The exit status after a program that the rack lost.
    static let lostStatus: Int32 = 125

    init(_ exit: AttachExit) {
        if exit.state == .lost {
            self = .lost(reason: exit.reason)
        } else if exit.signal != 0 {
            self = .signaled(Int32(clamping: exit.signal), reason: exit.reason)
        } else {
            self = .exited(exit.exitStatus & 0xff, reason: exit.reason)
        }
    }

    init(_ program: ProgramStatus) {
        if program.state == .lost {
            self = .lost(reason: program.reason ?? "a component was lost")
        } else if let signal = program.signal, signal != 0 {
            self = .signaled(Int32(clamping: signal), reason: program.reason ?? "")
        } else {
            self = .exited(Int32(clamping: program.exitStatus ?? 0) & 0xff, reason: program.reason ?? "")
        }
    }

    /// Ends this process as the program ended: with its exit status, or by the same signal. Says why when the rack
    /// ended it.
    func leave(program id: UInt64, name: String) -> Never {
        let title = "program \(id) (\(Output.printable(name)))"
        switch self {
        case .exited(let status, let reason):
            if !reason.isEmpty { Output.complain(reason) }
            exit(status)
        case .lost(let reason):
            Output.complain("\(title) was ended: \(reason)")
            exit(Self.lostStatus)
        case .signaled(let number, let reason):
            if !reason.isEmpty { Output.complain("\(title) was ended: \(reason)") }
            fflush(nil)
            lego_signal_die(number)
            // A signal whose default action does not end a process: what a shell would answer.
            exit(128 &+ number)
        }
    }
}
