import Foundation
import Testing

@testable import ConfigurationFiles
@testable import RackConfiguration

/// What a configuration file may say, and what is answered when it says something else.
@Suite(.serialized)
struct ConfigurationTests {
    private let schema = MemoryKeys.schema

    private func settings(_ text: String, flags: [SettingFlag] = []) throws(ConfigurationError) -> Settings {
        let file = try ConfigurationFile(name: "memory.toml", bytes: Array(text.utf8), schema: schema)
        return try Settings(schema: schema, file: file.settings, flags: flags)
    }

    private func refusal(_ text: String) -> String? {
        do {
            _ = try settings(text)
            return nil
        } catch {
            return error.description
        }
    }

    @Test func valuesComeFromFlagsThenTheFileThenTheDefaults() throws {
        let text = "[memory]\nsize = \"64MiB\"\n[component]\nname = \"m\"\nlisten = \"[::1]:99\"\n"
        let flag = try #require(SettingFlag("--size", MemoryKeys.size, "128MiB"))
        let settings = try settings(text, flags: [flag])
        #expect(settings[MemoryKeys.size] == 128 << 20)
        #expect(settings.origin(of: MemoryKeys.size) == .flag("--size"))
        #expect(settings[CommonKeys.name] == "m")
        #expect(settings.origin(of: CommonKeys.name) == .file("memory.toml", line: 4))
        #expect(settings[CommonKeys.listen] == NetworkAddress(host: "::1", port: 99))
        #expect(settings[MemoryKeys.prefault] == false)
        #expect(settings.origin(of: MemoryKeys.prefault) == .defaultValue)
        #expect(SettingFlag("--size", MemoryKeys.size, nil) == nil)
    }

    /// The file, and the whole line that the operator sees.
    static let refusals: [(text: String, line: String)] = [
        (
            "[memory]\n\nsize = \"12 bananas\"\n",
            "memory.toml:3: key 'memory.size' is \"12 bananas\"; allowed: a size such as 512MiB, at least 1MiB"
        ),
        (
            "[memory]\nsize = 4096\n",
            "memory.toml:2: key 'memory.size' is 4096; allowed: a size such as 512MiB, at least 1MiB"
        ),
        (
            "[memory]\nsize = -1\n",
            "memory.toml:2: key 'memory.size' is -1; allowed: a size such as 512MiB, at least 1MiB"
        ),
        (
            "[memory]\nsize = 1.5\n",
            "memory.toml:2: key 'memory.size' is a floating-point number; allowed: a size such as 512MiB, at least 1MiB"
        ),
        (
            "[component]\nlink-model = \"fast\"\n",
            "memory.toml:2: key 'component.link-model' is \"fast\"; allowed: off, membus, pcie3x16, edr, hdr, genz, cxl "
                + "or custom:NANOSECONDS:BYTES_PER_SECOND"
        ),
        (
            "[pool]\nhuge-pages = true\n",
            "memory.toml:2: key 'pool.huge-pages' is true; allowed: auto, never, always"
        ),
        (
            "[component]\nnuma-node = -1\n",
            "memory.toml:2: key 'component.numa-node' is -1; allowed: auto, or a number from 0 to 1023"
        ),
        (
            "[memory]\nprefault = \"perhaps\"\n",
            "memory.toml:2: key 'memory.prefault' is \"perhaps\"; allowed: true or false"
        ),
        (
            "[component]\nlisten = \"everywhere\"\n",
            "memory.toml:2: key 'component.listen' is \"everywhere\"; allowed: HOST:PORT or [IPV6]:PORT, e.g. 127.0.0.1:7070"
        ),
        (
            "[component]\nlog-level = [\"info\"]\n",
            "memory.toml:2: key 'component.log-level' is a list; allowed: trace, debug, info, notice, warning, error, critical"
        ),
        (
            "[memory]\nsiez = \"1GiB\"\n",
            "memory.toml:2: unknown key 'memory.siez'; known: memory.size, memory.prefault, lite.socket, lite.arena, "
                + "link.*.model, component.name, component.listen, component.manager, component.fabric, component.adapter, pool.huge-pages, "
                + "component.link-model, component.log-level, component.numa-node"
        ),
        (
            "\n\n[memroy]\nsize = \"1GiB\"\n",
            "memory.toml:3: unknown table 'memroy'; known: memory, pool, lite, link.*, component"
        ),
        ("memory = 5\n", "memory.toml:1: key 'memory' is 5; allowed: a table [memory]"),
        (
            "[memory.size]\nof = 3\n",
            "memory.toml:1: key 'memory.size' is a table; allowed: a size such as 512MiB, at least 1MiB"
        ),
        ("[memory]\n\u{0}\n", "memory.toml:2: a zero byte; allowed: UTF-8 text"),
        // The first mistake in the file, not the first by name.
        (
            "[memory]\nzzz = 1\n[component]\naaa = 1\n",
            "memory.toml:2: unknown key 'memory.zzz'; known: memory.size, memory.prefault, lite.arena, component.name, "
                + "lite.socket, link.*.model, component.listen, component.fabric, component.manager, component.adapter, pool.huge-pages, "
                + "component.numa-node, component.log-level, component.link-model"
        ),
    ]

    @Test(arguments: refusals)
    func refusalsNameTheLineTheKeyAndWhatIsAllowed(_ text: String, _ line: String) {
        #expect(refusal(text) == line)
    }

    @Test(arguments: [("this is not TOML\n", 1), ("[memory]\nsize =\n", 2), ("[memory]\nsize = 1\nsize = 2\n", 3)])
    func syntaxErrorsNameTheLine(_ text: String, _ line: Int) throws {
        let message = try #require(refusal(text))
        #expect(message.hasPrefix("memory.toml:\(line): "), "\(message)")
        #expect(!message.contains("\n"))
    }

    @Test func bytesThatAreNoTextAreRefused() {
        #expect(throws: ConfigurationError("memory.toml:2: bytes that are no UTF-8; allowed: UTF-8 text")) {
            _ = try ConfigurationFile(name: "memory.toml", bytes: [35, 10, 0xff, 10, 0xfe], schema: schema)
        }
    }

    @Test func aFileThatCannotBeReadIsNamed() {
        #expect(throws: ConfigurationError("/no/such/file: No such file or directory; name a readable file")) {
            _ = try ConfigurationFile(path: "/no/such/file", schema: schema)
        }
        #expect(throws: ConfigurationError("/: Is a directory; name a readable file")) {
            _ = try ConfigurationFile(path: "/", schema: schema)
        }
    }

    @Test func aWrongFlagIsNamedAsItWasTyped() throws {
        let flag = try #require(SettingFlag("--size", MemoryKeys.size, "much\nmore"))
        do {
            _ = try Settings(schema: schema, file: nil, flags: [flag])
            Issue.record("accepted")
        } catch {
            #expect(error.description == "--size is \"much\\nmore\"; allowed: a size such as 512MiB, at least 1MiB")
            #expect(error.exitStatus == 64)
        }
    }

    @Test func keysAreFoundInAnySpelling() throws {
        // Dotted keys, inline tables, texts over several lines that look like keys.
        #expect(try settings("memory.size = \"2MiB\"\n")[MemoryKeys.size] == 2 << 20)
        #expect(try settings("memory = { size = \"3MiB\" }\n")[MemoryKeys.size] == 3 << 20)
        let text = "[component]\nname = \"\"\"\nlisten = 5\n\"\"\"\nlisten = 7\n"
        #expect(
            refusal(text)?.hasPrefix("memory.toml:2: key 'component.name'") == true, "\(refusal(text) ?? "accepted")")
        #expect(refusal("memory = { size = 3 }\n")?.hasPrefix("memory.toml:1: key 'memory.size' is 3;") == true)
    }

    @Test func overridesAreReadByTheNameOfTheComponent() throws {
        let text = "[override.memory1]\nsize = \"64MiB\"\n[override.manager]\nlog-level = \"debug\"\n"
        let file = try ConfigurationFile(name: "rack.toml", bytes: Array(text.utf8), schema: RackKeys.schema)
        let settings = try Settings(schema: RackKeys.schema, file: file.settings)
        #expect(settings[RackKeys.componentSize, name: "memory1"] == 64 << 20)
        #expect(settings[RackKeys.componentSize, name: "memory0"] == nil)
        #expect(settings[RackKeys.componentLogLevel, name: "manager"] == "debug")
        #expect(settings.names(below: "override").map(\.name) == ["manager", "memory1"])
        #expect(
            settings.names(below: "override").map(\.origin) == [
                .file("rack.toml", line: 4), .file("rack.toml", line: 2),
            ])
    }
}

/// The files in Configs are what the schemas make, and say what the daemons do without them.
@Suite(.serialized)
struct DefaultFileTests {
    static let files: [(String, ConfigurationSchema)] = [
        ("manager.toml", ManagerKeys.schema), ("processor.toml", ProcessorKeys.schema),
        ("memory.toml", MemoryKeys.schema), ("storage.toml", StorageKeys.schema), ("rack.toml", RackKeys.schema),
        ("lite.toml", LiteKeys.schema),
    ]

    private static func path(_ name: String) -> String {
        URL(fileURLWithPath: #filePath).deletingLastPathComponent().path + "/../../Configs/\(name)"
    }

    @Test(arguments: files)
    func theFileIsWhatTheSchemaMakes(_ name: String, _ schema: ConfigurationSchema) throws {
        if ProcessInfo.processInfo.environment["LEGO_WRITE_CONFIGS"] == "1" {
            try schema.defaultFile().write(toFile: Self.path(name), atomically: true, encoding: .utf8)
        }
        let text = try String(contentsOfFile: Self.path(name), encoding: .utf8)
        #expect(
            text == schema.defaultFile(), "write it anew: LEGO_WRITE_CONFIGS=1 swift test --filter DefaultFileTests")
    }

    @Test(arguments: files)
    func theFileNamesEveryKeyWithItsDefault(_ name: String, _ schema: ConfigurationSchema) throws {
        let file = try ConfigurationFile(path: Self.path(name), schema: schema)
        let settings = try Settings(schema: schema, file: file.settings)
        for key in schema.keys where !key.path.contains("*") {
            #expect(settings.origin(of: key) != .defaultValue, "\(key.path) is not in \(name)")
            let literal = try #require(file.settings.entries[key.path]?.setting)
            #expect("\(literal)" == key.defaultLiteral)
        }
        #expect(file.settings.entries.count == schema.keys.count { !$0.path.contains("*") })
    }

    @Test(arguments: files)
    func everyKeyIsExplained(_ name: String, _ schema: ConfigurationSchema) {
        for key in schema.keys {
            #expect(key.comment.hasSuffix("."), "\(key.path)")
            #expect(!key.comment.contains("\n") && !key.allowed.isEmpty)
        }
        #expect(schema.defaultFile().split(separator: "\n").allSatisfy { $0.count <= 110 })
    }
}

@Suite(.serialized)
struct SizeAndDurationTests {
    @Test(
        arguments: [
            ("0", 0), ("1", 1), ("4096B", 4096), ("64K", 64 << 10), ("64KiB", 64 << 10), ("512MiB", 512 << 20),
            ("1G", 1 << 30), ("1 GiB", 1 << 30), ("2TiB", 2 << 40), ("9223372036854775807", UInt64(Int64.max)),
        ] as [(String, UInt64)])
    func sizes(_ text: String, _ bytes: UInt64) {
        #expect(ByteSize.parse(text) == bytes)
        #expect(ByteSize.parse(ByteSize.exact(bytes)) == bytes)
    }

    @Test(arguments: [
        "", "MiB", "-1", "1.5GiB", "1kb", "1 banana", "12 MiB x", "9223372036854775808", "99999999TiB", "٣MiB",
    ])
    func whatIsNoSize(_ text: String) { #expect(ByteSize.parse(text) == nil) }

    @Test(
        arguments: [
            (0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1536, "1.50 KiB"), (10 << 10, "10.0 KiB"),
            (100 << 10, "100 KiB"), (1 << 20 - 1, "1023 KiB"), (64 << 20, "64.0 MiB"), (12_897_484, "12.2 MiB"),
            (3 << 40, "3.00 TiB"),
        ] as [(UInt64, String)])
    func readableSizes(_ bytes: UInt64, _ text: String) { #expect(ByteSize.readable(bytes) == text) }

    @Test(
        arguments: [
            ("1500ms", .milliseconds(1500)), ("2s", .seconds(2)), ("250us", .microseconds(250)),
            ("7ns", .nanoseconds(7)),
            ("3 min", .seconds(180)),
        ] as [(String, Duration)])
    func durations(_ text: String, _ span: Duration) {
        #expect(TimeSpan.parse(text) == span)
        #expect(TimeSpan.parse(TimeSpan.exact(span)) == span)
    }

    @Test(arguments: ["", "5", "ms", "-1s", "1.5s", "1 hour", "99999999999min"])
    func whatIsNoDuration(_ text: String) { #expect(TimeSpan.parse(text) == nil) }

    @Test(
        arguments: [
            ("127.0.0.1:0", "127.0.0.1", 0), ("rack-1.example:7070", "rack-1.example", 7070),
            ("[::1]:65535", "::1", 65535),
        ] as [(String, String, UInt16)])
    func addresses(_ text: String, _ host: String, _ port: UInt16) {
        #expect(NetworkAddress(text) == NetworkAddress(host: host, port: port))
        #expect(NetworkAddress(text)?.description == text)
    }

    @Test(arguments: ["", ":80", "host", "host:", "host:65536", "::1:80", "a b:80", "h/p:80", "host:-1"])
    func whatIsNoAddress(_ text: String) { #expect(NetworkAddress(text) == nil) }

    @Test func namesNearestFirst() {
        #expect(byLikeness(["memory0", "manager", "storage0"], to: "memroy0").first == "memory0")
        #expect(editDistance("", "abc") == 3)
        #expect(editDistance("kitten", "sitting") == 3)
    }
}
