/// A flag of the command line that stands for a key.
public struct SettingFlag: Sendable {
    /// As typed, e.g. `--size`.
    public let flag: String
    public let key: any ConfigurationKeyDescription
    public let text: String

    /// nil when the flag was not given.
    public init?(_ flag: String, _ key: any ConfigurationKeyDescription, _ text: String?) {
        guard let text else { return nil }
        self.flag = flag
        self.key = key
        self.text = text
    }
}

/// What a configuration file sets, checked against its schema.
public struct FileSettings: Sendable, Equatable, Codable {
    public struct Entry: Sendable, Equatable, Codable {
        public let setting: Setting
        public let line: Int

        public init(setting: Setting, line: Int) {
            self.setting = setting
            self.line = line
        }
    }

    /// The file, as the user named it.
    public let name: String
    /// By path.
    public var entries: [String: Entry] = [:]

    public init(name: String) { self.name = name }
}

/// The settings of one start: flags before the file before the defaults. Everything in it has passed its key's check.
public struct Settings: Sendable {
    private let values: [String: (setting: Setting, origin: SettingOrigin)]
    public let schema: ConfigurationSchema

    /// Puts the flags on top of what the file sets, if there is one.
    public init(schema: ConfigurationSchema, file: FileSettings? = nil, flags: [SettingFlag?] = [])
        throws(ConfigurationError)
    {
        self.schema = schema
        var values: [String: (setting: Setting, origin: SettingOrigin)] = [:]
        if let file {
            for (path, entry) in file.entries { values[path] = (entry.setting, .file(file.name, line: entry.line)) }
        }
        for case let flag? in flags {
            let setting = Setting.text(flag.text)
            let origin = SettingOrigin.flag(flag.flag)
            if !flag.key.accepts(setting) {
                throw ConfigurationError(at: origin, key: flag.key.path, is: setting, allowed: flag.key.allowed)
            }
            values[flag.key.path] = (setting, origin)
        }
        self.values = values
    }

    /// The value in force.
    public subscript<Value>(key: ConfigurationKey<Value>) -> Value {
        values[key.path].flatMap { key.value($0.setting) } ?? key.defaultValue
    }

    /// The value of a wildcard key for `name`; nil where the file sets none.
    public subscript<Value>(key: ConfigurationKey<Value>, name name: String) -> Value? {
        values[key.path.replacing("*", with: name)].flatMap { key.value($0.setting) }
    }

    public func origin(of key: any ConfigurationKeyDescription) -> SettingOrigin {
        values[key.path]?.origin ?? .defaultValue
    }

    /// Where the key of that path was set; nil where it was not.
    public func origin(ofPath path: String) -> SettingOrigin? { values[path]?.origin }

    /// The names that the file chose below `table`, each with the place of its first key, in alphabetical order.
    public func names(below table: String) -> [(name: String, origin: SettingOrigin)] {
        var names: [String: SettingOrigin] = [:]
        for (path, value) in values.sorted(by: { $0.key < $1.key }) {
            let parts = path.split(separator: ".")
            guard parts.count == 3, parts[0] == table else { continue }
            if names[String(parts[1])] == nil { names[String(parts[1])] = value.origin }
        }
        return names.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
    }
}
