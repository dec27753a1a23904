import Wire

/// What a schema knows of a key, whatever its type.
public protocol ConfigurationKeyDescription: Sendable {
    /// `TABLE.KEY`. The part `*` stands for a name that the file chooses: `override.*.size`.
    var path: String { get }
    /// What it is for: sentences, without line breaks.
    var comment: String { get }
    /// What an error says is allowed, e.g. `a size such as 512MiB, at least 1MiB`.
    var allowed: String { get }
    /// The default as TOML spells it.
    var defaultLiteral: String { get }
    func accepts(_ setting: Setting) -> Bool
}

/// One key of a configuration: its name, type, range, default and explanation, in one place. Reading, checking and the
/// commented default files all come from it.
public struct ConfigurationKey<Value: Sendable>: ConfigurationKeyDescription {
    public let path: String
    public let comment: String
    public let allowed: String
    public let defaultLiteral: String
    public let defaultValue: Value
    private let parse: @Sendable (Setting) -> Value?

    init(
        _ path: String, default defaultValue: Value, literal: String, allowed: String, comment: String,
        parse: @escaping @Sendable (Setting) -> Value?
    ) {
        self.path = path
        self.defaultValue = defaultValue
        self.defaultLiteral = literal
        self.allowed = allowed
        self.comment = comment
        self.parse = parse
    }

    /// nil when the setting is not allowed.
    public func value(_ setting: Setting) -> Value? { parse(setting) }

    public func accepts(_ setting: Setting) -> Bool { parse(setting) != nil }
}

func quoted(_ text: String) -> String { "\"\(text)\"" }

extension ConfigurationKey where Value == UInt64 {
    /// A size in bytes: a text with a unit or a plain number.
    static func size(_ path: String, default bytes: UInt64, atLeast: UInt64, comment: String) -> Self {
        Self(
            path, default: bytes, literal: quoted(ByteSize.exact(bytes)),
            allowed: "a size such as 512MiB, at least \(ByteSize.exact(atLeast))", comment: comment
        ) { setting in
            let bytes: UInt64?
            switch setting {
            case .text(let text): bytes = ByteSize.parse(text)
            case .integer(let number): bytes = UInt64(exactly: number)
            default: bytes = nil
            }
            guard let bytes, bytes >= atLeast, bytes <= 1 << 50 else { return nil }
            return bytes
        }
    }
}

extension ConfigurationKey where Value == Int {
    static func integer(_ path: String, default number: Int, in range: ClosedRange<Int>, comment: String) -> Self {
        Self(
            path, default: number, literal: String(number),
            allowed: "a number from \(range.lowerBound) to \(range.upperBound)", comment: comment
        ) { setting in
            let number: Int?
            switch setting {
            case .integer(let given): number = Int(exactly: given)
            // A flag is always a text; digits in quotes are clear enough in a file, too.
            case .text(let text): number = Int(text)
            default: number = nil
            }
            return number.flatMap { range.contains($0) ? $0 : nil }
        }
    }
}

extension ConfigurationKey where Value == Bool {
    static func boolean(_ path: String, default flag: Bool, comment: String) -> Self {
        Self(path, default: flag, literal: String(flag), allowed: "true or false", comment: comment) { setting in
            switch setting {
            case .boolean(let flag): flag
            case .text("true"): true
            case .text("false"): false
            default: nil
            }
        }
    }
}

extension ConfigurationKey where Value == Duration {
    static func duration(_ path: String, default span: Duration, in range: ClosedRange<Duration>, comment: String)
        -> Self
    {
        Self(
            path, default: span, literal: quoted(TimeSpan.exact(span)),
            allowed: "a time such as \(TimeSpan.exact(span)), from \(TimeSpan.exact(range.lowerBound)) to "
                + TimeSpan.exact(range.upperBound), comment: comment
        ) { setting in
            guard case .text(let text) = setting, let span = TimeSpan.parse(text), range.contains(span) else {
                return nil
            }
            return span
        }
    }
}

extension ConfigurationKey where Value == NetworkAddress {
    static func address(_ path: String, default address: NetworkAddress, comment: String) -> Self {
        Self(
            path, default: address, literal: quoted(address.description),
            allowed: "HOST:PORT or [IPV6]:PORT, e.g. 127.0.0.1:7070", comment: comment
        ) { setting in
            guard case .text(let text) = setting else { return nil }
            return NetworkAddress(text)
        }
    }
}

extension ConfigurationKey where Value == String {
    /// An absolute path; empty only where `mayBeEmpty`.
    static func path(_ path: String, default text: String, mayBeEmpty: Bool = false, comment: String) -> Self {
        Self(
            path, default: text, literal: quoted(text),
            allowed: mayBeEmpty ? "an absolute path, or \"\"" : "an absolute path", comment: comment
        ) { setting in
            guard case .text(let text) = setting, text.utf8.count < 4096, !text.utf8.contains(0) else { return nil }
            return text.hasPrefix("/") || (mayBeEmpty && text.isEmpty) ? text : nil
        }
    }

    /// One of some words.
    static func word(_ path: String, default text: String, of words: [String], comment: String) -> Self {
        Self(path, default: text, literal: quoted(text), allowed: words.joined(separator: ", "), comment: comment) {
            guard case .text(let text) = $0 else { return nil }
            return words.contains(text) ? text : nil
        }
    }

    /// The name of a component or a program, or nothing.
    static func name(_ path: String, comment: String) -> Self {
        Self(path, default: "", literal: "\"\"", allowed: ComponentName.allowed + ", or \"\"", comment: comment) {
            guard case .text(let text) = $0 else { return nil }
            return text.isEmpty || ComponentName.isValid(text) ? text : nil
        }
    }
}

extension ConfigurationKey where Value == Int? {
    /// The number of a NUMA node, or auto.
    static func node(_ path: String, comment: String) -> Self {
        let nodes_max = 1023
        return Self(
            path, default: nil, literal: "\"auto\"", allowed: "auto, or a number from 0 to \(nodes_max)",
            comment: comment
        ) { setting in
            let number: Int?
            switch setting {
            case .text("auto"): return .some(nil)
            case .text(let text): number = Int(text)
            case .integer(let given): number = Int(exactly: given)
            default: number = nil
            }
            return number.flatMap { (0...nodes_max).contains($0) ? .some($0) : nil }
        }
    }
}

extension ConfigurationKey where Value == LinkModel? {
    /// A link model, or none.
    static func linkModel(_ path: String, comment: String) -> Self {
        Self(path, default: nil, literal: "\"off\"", allowed: "off, \(LinkModel.allowed)", comment: comment) {
            setting in
            guard case .text(let text) = setting else { return nil }
            if text == "off" { return .some(nil) }
            return LinkModel(text).map { .some($0) }
        }
    }
}

/// What a component may be called.
public enum ComponentName {
    public static let allowed = "1 to 64 of the characters a-z A-Z 0-9 . _ -"

    public static func isValid(_ name: String) -> Bool {
        (1...64).contains(name.utf8.count)
            && name.utf8.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"): true
                case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"): true
                case UInt8(ascii: "-"): true
                default: false
                }
            }
    }
}
