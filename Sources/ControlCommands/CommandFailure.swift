/// Why a command failed: one line for the user, and the exit status.
struct CommandFailure: Error, CustomStringConvertible {
    let description: String
    var exitStatus: Int32 = 1

    init(_ description: String, exitStatus: Int32 = 1) {
        self.description = description
        self.exitStatus = exitStatus
    }

    /// A wrong value of a flag or an argument, as the argument parser's own errors end.
    static func usage(_ description: String) -> CommandFailure { CommandFailure(description, exitStatus: 64) }
}
