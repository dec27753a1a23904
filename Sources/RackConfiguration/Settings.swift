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

/// The settings of one start: flags before the file before the defaults. Everything in it has passed its key's check.
public struct Settings: Sendable {
    private let values: [String: (setting: Setting, origin: SettingOrigin)]
    public let schema: ConfigurationSchema

    /// Reads the file, if one is named, and puts the flags on top.
    public init(schema: ConfigurationSchema, file path: String? = nil, flags: [SettingFlag?] = [])
        throws(ConfigurationError)
    {
        let file: ConfigurationFile? =
            if let path { try ConfigurationFile(path: path, schema: schema) } else { nil }
        try self.init(schema: schema, file: file, flags: flags.compactMap(\.self))
    }

    init(schema: ConfigurationSchema, file: ConfigurationFile?, flags: [SettingFlag]) throws(ConfigurationError) {
        self.schema = schema
        var values: [String: (setting: Setting, origin: SettingOrigin)] = [:]
        if let file {
            for (path, entry) in file.settings { values[path] = (entry.setting, .file(file.name, line: entry.line)) }
        }
        for flag in flags {
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
