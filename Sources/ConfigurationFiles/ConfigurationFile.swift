import Glibc
import Kernel
import RackConfiguration
import TOMLKit

/// A configuration file, read and checked against its schema.
public struct ConfigurationFile {
    static let bytes_max = 1 << 20

    /// As the user named it.
    private let name: String
    public private(set) var settings: FileSettings

    /// Reads, parses and checks.
    public init(path: String, schema: ConfigurationSchema) throws(ConfigurationError) {
        try self.init(name: path, bytes: Self.read(path), schema: schema)
    }

    init(name: String, bytes: [UInt8], schema: ConfigurationSchema) throws(ConfigurationError) {
        self.name = name
        settings = FileSettings(name: name)
        let text = try Self.text(bytes, name: name)
        let root: TOMLTable
        do {
            root = try TOMLTable(string: text)
        } catch let error as TOMLParseError {
            let reason = error.description.split(separator: "\n").joined(separator: " ")
            throw ConfigurationError("\(name):\(error.source.begin.line): \(reason)")
        } catch {
            throw ConfigurationError("\(name): \(error)")
        }
        let locator = KeyLocator(text)
        var problems: [(line: Int, error: ConfigurationError)] = []
        collect(root, path: [], schema, locator, &problems)
        // The first in the file, as someone who reads it from the top would want it.
        if let first = problems.min(by: { $0.line < $1.line }) { throw first.error }
    }

    private static func read(_ path: String) throws(ConfigurationError) -> [UInt8] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY)
        if descriptor < 0 { throw ConfigurationError("\(path): \(KernelError.text(errno)); name a readable file") }
        let file = Descriptor(taking: descriptor)
        var bytes = [UInt8](repeating: 0, count: bytes_max + 1)
        var count = 0
        while count < bytes.count {
            let got = bytes.withUnsafeMutableBytes { Glibc.read(file.raw, $0.baseAddress! + count, $0.count - count) }
            if got < 0 && errno == EINTR { continue }
            if got < 0 { throw ConfigurationError("\(path): \(KernelError.text(errno)); name a readable file") }
            if got == 0 { break }
            count += got
        }
        if count > bytes_max { throw ConfigurationError("\(path): larger than \(ByteSize.exact(UInt64(bytes_max)))") }
        return Array(bytes[..<count])
    }

    private static func text(_ bytes: [UInt8], name: String) throws(ConfigurationError) -> String {
        if let zero = bytes.firstIndex(of: 0) {
            throw ConfigurationError("\(name):\(line(of: zero, in: bytes)): a zero byte; allowed: UTF-8 text")
        }
        if let text = String(validating: bytes, as: UTF8.self) { return text }
        let lines = bytes.split(separator: 10, omittingEmptySubsequences: false)
        let number = lines.firstIndex { String(validating: $0, as: UTF8.self) == nil } ?? 0
        throw ConfigurationError("\(name):\(number + 1): bytes that are no UTF-8; allowed: UTF-8 text")
    }

    private static func line(of offset: Int, in bytes: [UInt8]) -> Int { bytes[..<offset].count { $0 == 10 } + 1 }

    /// Takes the settings of a table and of those in it.
    private mutating func collect(
        _ table: TOMLTable, path: [String], _ schema: ConfigurationSchema, _ locator: KeyLocator,
        _ problems: inout [(line: Int, error: ConfigurationError)]
    ) {
        for key in table.keys {
            guard let value = table[key]?.tomlValue else { continue }
            let here = path + [key]
            let name = here.joined(separator: ".")
            let line = locator.line(of: here)
            func refuse(_ text: String) { problems.append((line, ConfigurationError("\(self.name):\(line): \(text)"))) }
            if let inner = value.table {
                if schema.isTable(here) {
                    collect(inner, path: here, schema, locator, &problems)
                } else if let known = schema.key(here) {
                    refuse("key '\(name)' is a table; allowed: \(known.allowed)")
                } else {
                    let known = schema.tablesByLikeness(to: name).joined(separator: ", ")
                    refuse("unknown table '\(name)'; known: \(known)")
                }
                continue
            }
            let setting = Self.setting(value)
            guard let known = schema.key(here) else {
                if schema.isTable(here) {
                    refuse("key '\(name)' is \(setting); allowed: a table [\(name)]")
                } else {
                    let known = schema.keysByLikeness(to: name).joined(separator: ", ")
                    refuse("unknown key '\(name)'; known: \(known)")
                }
                continue
            }
            if !known.accepts(setting) {
                let origin = SettingOrigin.file(self.name, line: line)
                problems.append(
                    (line, ConfigurationError(at: origin, key: name, is: setting, allowed: known.allowed)))
            }
            settings.entries[name] = FileSettings.Entry(setting: setting, line: line)
        }
    }

    private static func setting(_ value: TOMLValue) -> Setting {
        if let text = value.string { return .text(text) }
        if let flag = value.bool { return .boolean(flag) }
        if value.type == .int, let number = value.int { return .integer(Int64(number)) }
        return .unusable(value.type == .array ? "a list" : "a \(value.type)")
    }
}
