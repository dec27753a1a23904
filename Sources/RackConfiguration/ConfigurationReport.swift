/// What `lego-config` prints of a file, as JSON: its settings, or why they are refused.
public enum ConfigurationReport: Sendable, Equatable, Codable {
    case settings(FileSettings)
    case refused(ConfigurationError)

    /// For how many seconds a file may be read: it may be a pipe that somebody still writes. After it legoctl waits no longer,
    /// and lego-config ends even where legoctl has ended.
    public static let seconds_max: UInt32 = 60
}
