import Kernel

/// Why a daemon does not start or ends early: one line for the operator, which says what to do.
public struct DaemonError: Error, CustomStringConvertible {
    public let description: String
    public init(_ description: String) { self.description = description }
}

extension DaemonError {
    /// The kernel gives this process no mounts of its own.
    public static func noMountNamespace(_ error: KernelError) -> DaemonError {
        DaemonError("no mount namespace of its own (\(error)): it needs root, and in a container CAP_SYS_ADMIN")
    }
}
