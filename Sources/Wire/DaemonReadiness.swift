/// What a daemon writes to the descriptor of `--ready-fd`, as one line: how `legoctl` learns, without polling, that a
/// component is up, under which name and where, or why it is not.
public enum DaemonReadiness: Equatable, Sendable {
    /// `liteAddress` is where peers connect; `apiAddress` is the manager's HTTP address, empty for the others.
    case ready(name: String, liteAddress: String, apiAddress: String)
    /// The start failed: one line for the operator.
    case failed(reason: String)

    /// Longest line in bytes, line feed included.
    public static let bytes_max = 4096

    /// With the line feed at the end.
    public var line: String {
        let fields: [String] =
            switch self {
            case .ready(let name, let lite, let api): ["ready", name, lite, api]
            case .failed(let reason): ["failed", String(reason.prefix(1000))]
            }
        return fields.map { $0.replacing("\t", with: " ").replacing("\n", with: " ") }.joined(separator: "\t") + "\n"
    }

    /// nil when it is no such line. Without the line feed.
    public init?(line: String) {
        let fields = line.split(separator: "\t" as Character, omittingEmptySubsequences: false).map(String.init)
        switch (fields.first, fields.count) {
        case ("ready", 4): self = .ready(name: fields[1], liteAddress: fields[2], apiAddress: fields[3])
        case ("failed", 2): self = .failed(reason: fields[1])
        default: return nil
        }
    }
}
