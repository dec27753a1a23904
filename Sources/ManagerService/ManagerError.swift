/// Why a manager cannot start. Each case's comment is the operator's message.
public enum ManagerError: Error, Sendable, CustomStringConvertible {
    /// cannot use the state directory PATH: REASON
    case stateDirectory(path: String, reason: String)
    /// the state directory PATH belongs to another manager that runs: give this one a directory of its own or stop the
    /// other
    case stateInUse(path: String)
    /// cannot read the manager's state in PATH: REASON; move the file away to start with an empty rack
    case store(path: String, reason: String)
    /// cannot listen for the HTTP API on HOST:PORT: REASON
    case cannotListen(address: String, reason: String)
    /// cannot start the manager: CALL failed: REASON
    case system(String)

    public var description: String {
        switch self {
        case .stateDirectory(let path, let reason): "cannot use the state directory \(path): \(reason)"
        case .stateInUse(let path):
            "the state directory \(path) belongs to another manager that runs: "
                + "give this one a directory of its own or stop the other"
        case .store(let path, let reason):
            "cannot read the manager's state in \(path): \(reason); move the file away to start with an empty rack"
        case .cannotListen(let address, let reason): "cannot listen for the HTTP API on \(address): \(reason)"
        case .system(let reason): "cannot start the manager: \(reason)"
        }
    }
}
