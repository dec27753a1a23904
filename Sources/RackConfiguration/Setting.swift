/// A value as it stands in a configuration file or behind a flag, before a key has judged it.
public enum Setting: Sendable, Equatable, Codable, CustomStringConvertible {
    case text(String)
    case integer(Int64)
    case boolean(Bool)
    /// A kind of value that no key takes, as the file spells it.
    case unusable(String)

    /// As an error quotes it: one line, long texts cut.
    public var description: String {
        switch self {
        case .text(let text): "\"\(Self.oneLine(text))\""
        case .integer(let number): String(number)
        case .boolean(let flag): String(flag)
        case .unusable(let spelling): Self.oneLine(spelling)
        }
    }

    private static func oneLine(_ text: String) -> String {
        var line = ""
        for character in text.unicodeScalars.prefix(80) {
            switch character {
            case "\"": line += "\\\""
            case "\n": line += "\\n"
            case "\t": line += "\\t"
            case let character where character.value < 32 || character.value == 127: line += "?"
            default: line.unicodeScalars.append(character)
            }
        }
        return text.unicodeScalars.count > 80 ? line + "…" : line
    }
}

/// Where a setting came from.
public enum SettingOrigin: Sendable, Equatable {
    case defaultValue
    case file(String, line: Int)
    /// A command-line flag, e.g. `--size`.
    case flag(String)
}

/// Why a configuration is refused: one line with the place, what stands there and what is allowed.
public struct ConfigurationError: Error, Equatable, Codable, CustomStringConvertible {
    public let description: String
    /// What a command exits with: 64 (EX_USAGE) when a flag is wrong, else 1.
    public let exitStatus: Int32

    public init(_ description: String) {
        self.description = description
        exitStatus = 1
    }

    /// The file's name and line where there is one, the flag where there is one.
    public init(at origin: SettingOrigin, key path: String, is setting: Setting, allowed: String) {
        if case .flag = origin { exitStatus = 64 } else { exitStatus = 1 }
        switch origin {
        case .file(let file, let line):
            description = "\(file):\(line): key '\(path)' is \(setting); allowed: \(allowed)"
        case .flag(let flag): description = "\(flag) is \(setting); allowed: \(allowed)"
        case .defaultValue: description = "key '\(path)' is \(setting); allowed: \(allowed)"
        }
    }
}
