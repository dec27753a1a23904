import RackConfiguration
import Wire

/// Why the rack must end a program.
public enum ProgramFailure: Sendable, Equatable {
    /// A memory component was lost with `bytes` of the program's memory.
    case componentLost(name: String, bytes: UInt64)
    /// No memory component has room.
    case outOfRemoteMemory(String)
    /// It has more memory than its quota of `bytes`.
    case quotaExceeded(bytes: UInt64)
    /// The processor cannot go on with the program.
    case internalError(String)

    /// One line for the user.
    public var reason: String {
        switch self {
        case .componentLost(let name, let bytes):
            let tenths = (bytes * 10 + (1 << 19)) >> 20
            return "memory component \(name) was lost with \(tenths / 10).\(tenths % 10) MiB of this program"
        case .outOfRemoteMemory(let text): return text
        case .quotaExceeded(let bytes):
            return "it took more memory than its quota of \(ByteSize.readable(bytes)) (--memory)"
        case .internalError(let text): return text
        }
    }
}
