import CLinux
import Glibc
import Kernel
import Wire

/// A program that could not be started. Nothing of it is left.
public struct SandboxFailure: Error, Equatable, CustomStringConvertible {
    /// One line for the user.
    public let reason: String
    /// As a shell answers: 127 no such program, 126 it cannot be executed, 125 the rack could not start it.
    public let exitStatus: UInt32
    /// The program was fine, but for its working directory.
    public let isWorkingDirectory: Bool

    public init(_ reason: String, exitStatus: UInt32 = 125, isWorkingDirectory: Bool = false) {
        self.reason = reason
        self.exitStatus = exitStatus
        self.isWorkingDirectory = isWorkingDirectory
    }

    public init(_ error: KernelError, during what: String) {
        self.init("the program could not be started: \(what): \(error)")
    }

    public var description: String { reason }
}

extension SandboxFailure {
    /// Puts a guardian's report into words.
    init(_ report: lego_sandbox_report, plan: SandboxPlan) {
        let stage = lego_sandbox_stage(rawValue: report.stage)
        let subject = report.subjectText
        let error = KernelError.text(report.error)
        switch stage {
        case LEGO_SANDBOX_STAGE_EXECUTE, LEGO_SANDBOX_STAGE_INTERPRETER, LEGO_SANDBOX_STAGE_LOAD:
            self = Self.execution(stage, report.error, subject, plan)
        case LEGO_SANDBOX_STAGE_WORKING:
            let what = "the working directory \(subject) cannot be entered in the tree of \(plan.rootName): \(error)"
            self.init("\(what); give another one with --cwd", isWorkingDirectory: true)
        case LEGO_SANDBOX_STAGE_ROOT:
            self.init("the tree of \(plan.rootName) at \(subject) cannot be the program's root: \(error)")
        case LEGO_SANDBOX_STAGE_DIRECTORY:
            self.init("the tree of \(plan.rootName) has no directory \(subject) and it cannot be made there: \(error)")
        case LEGO_SANDBOX_STAGE_MOUNT:
            self.init("\(subject) cannot be mounted in the tree of \(plan.rootName): \(error)")
        case LEGO_SANDBOX_STAGE_NAMESPACES:
            self.init("no new mount, process and ipc namespaces for the program: \(error)")
        case LEGO_SANDBOX_STAGE_FILTER:
            self.init("the kernel refuses the program's system call filter: \(error)")
        case LEGO_SANDBOX_STAGE_DEADLINE:
            self.init("the program could not be loaded in time; is \(plan.rootName) overloaded or lost?")
        case LEGO_SANDBOX_STAGE_PROCESS:
            self.init("the program could not be started: \(subject): \(error)")
        default:
            self.init("the program could not be started: the start message was refused: \(error)")
        }
    }

    private static func execution(_ stage: lego_sandbox_stage, _ error: Int32, _ subject: String, _ plan: SandboxPlan)
        -> SandboxFailure
    {
        let tree = plan.rootName
        if stage == LEGO_SANDBOX_STAGE_INTERPRETER {
            return SandboxFailure(
                "\(subject): its interpreter or loader does not exist in the tree of \(tree)", exitStatus: 126)
        }
        if stage == LEGO_SANDBOX_STAGE_LOAD {
            let name = plan.arguments.first ?? ""
            let end = "the kernel ended it with signal \(error) while loading it: the file is damaged"
            return SandboxFailure("\(name): \(end)", exitStatus: 126)
        }
        switch error {
        case ENOENT, ENOTDIR:
            return SandboxFailure("\(subject): no such program in the tree of \(tree)", exitStatus: 127)
        case EISDIR:
            return SandboxFailure("\(subject): is a directory, not a program", exitStatus: 126)
        case EACCES, EPERM:
            let allowed = "user \(plan.user) may not execute it, or it is no regular file"
            return SandboxFailure("\(subject): \(allowed) (tree of \(tree))", exitStatus: 126)
        case ENOEXEC:
            let allowed = "neither a whole ELF program for this machine nor a script that starts with #!"
            return SandboxFailure("\(subject): \(allowed)", exitStatus: 126)
        default:
            return SandboxFailure("\(subject): cannot be executed: \(KernelError.text(error))", exitStatus: 126)
        }
    }
}

extension lego_sandbox_report {
    /// The text that goes with a failure.
    var subjectText: String {
        withUnsafeBytes(of: subject) { bytes in
            String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        }
    }
}
