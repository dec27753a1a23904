/// Why a daemon does not start or ends early: one line for the operator, which says what to do.
public struct DaemonError: Error, CustomStringConvertible {
    public let description: String
    public init(_ description: String) { self.description = description }
}
