/// Why the rack must end a program. `reason` is the line that its user sees.
public enum ProgramFailure: Error, Sendable, Equatable {
    /// memory component NAME was lost with N MiB of this program
    case componentLost(name: String, bytes: UInt64)
    /// out of remote memory: WHAT; add a memory component or end other programs
    case outOfRemoteMemory(String)
    /// the processor cannot go on with this program: WHAT
    case internalError(String)

    public var reason: String {
        switch self {
        case .componentLost(let name, let bytes):
            let tenths = (bytes * 10 + 524_288) / 1_048_576
            return "memory component \(name) was lost with \(tenths / 10).\(tenths % 10) MiB of this program"
        case .outOfRemoteMemory(let text):
            return "out of remote memory: \(text); add a memory component or end other programs"
        case .internalError(let text):
            return "the processor cannot go on with this program: \(text)"
        }
    }

    /// Whether a component that was lost took the program with it.
    public var isLoss: Bool {
        if case .componentLost = self { return true }
        return false
    }
}
