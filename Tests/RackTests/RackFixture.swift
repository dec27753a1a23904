import Foundation
import Glibc
import Kernel
import ManagementAPI
import Testing

/// A rack of real daemons with a state directory of its own, taken down and checked for leftovers when its test ends.
final class Rack {
    let directory: String
    private(set) var address = ""

    /// The directory that holds the products: the one that this test bundle was built into.
    static let products: String = {
        if let named = ProcessInfo.processInfo.environment["LEGO_PRODUCTS"] { return named }
        return URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent().path
    }()
    static var legoctl: String { products + "/legoctl" }

    /// Starts a rack, hands it over, and takes it down whatever happens. `starter` is a command that runs `legoctl`.
    static func with<Value>(
        _ options: [String] = [], startedBy starter: [String] = [], _ body: (Rack) throws -> Value
    ) throws -> Value {
        let rack = try Rack(options, starter)
        defer { rack.tearDown() }
        return try body(rack)
    }

    private init(_ options: [String], _ starter: [String]) throws {
        directory = try Rack.makeDirectory()
        let words = starter + [Rack.legoctl, "rack", "up", "--state", directory + "/state"] + options
        let result = try Command(words[0], Array(words.dropFirst())).run(within: .seconds(60))
        try #require(result.status == 0, "rack up: \(result.text)\(result.errors)")
        let json = try Data(contentsOf: URL(fileURLWithPath: directory + "/state/rack.json"))
        let record = try JSONSerialization.jsonObject(with: json) as? [String: Any]
        address = try #require(record?["address"] as? String, "rack.json names no address")
    }

    /// A directory that programs in the rack can read: /tmp is private to them, and root's home is closed to `nobody`.
    static func makeDirectory() throws -> String {
        var template = Array("/var/tmp/lego-test.XXXXXX".utf8CString)
        let made = template.withUnsafeMutableBufferPointer { mkdtemp($0.baseAddress!) }
        guard made != nil else { throw KernelError("mkdtemp") }
        let path = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
        chmod(path, 0o755)
        return path
    }

    /// Runs legoctl on this rack.
    func control(
        _ arguments: [String], input: [UInt8] = [], environment: [String: String] = [:],
        within limit: Duration = .seconds(60)
    ) throws -> Command.Result {
        try command(arguments, input: input, environment: environment).run(within: limit)
    }

    /// legoctl on this rack, not yet started.
    func command(_ arguments: [String], input: [UInt8] = [], environment: [String: String] = [:]) -> Command {
        var environment = environment
        environment["LEGO_RACK"] = address
        return Command(Rack.legoctl, arguments, input: input, environment: environment)
    }

    /// `legoctl run … -- program`.
    func run(
        _ options: [String] = [], _ program: [String], input: [UInt8] = [], within limit: Duration = .seconds(60)
    ) throws -> Command.Result {
        try control(["run"] + options + ["--"] + program, input: input, within: limit)
    }

    /// Submits without waiting; answers the id.
    func detach(_ options: [String] = [], _ program: [String]) throws -> UInt64 {
        let result = try control(["run", "--detach"] + options + ["--"] + program)
        try #require(result.status == 0, "run --detach: \(result.errors)")
        return try #require(UInt64(result.text.trimmingCharacters(in: .whitespacesAndNewlines)))
    }

    func statistics(_ id: UInt64) throws -> ProgramStats {
        let result = try control(["stats", "--json", "\(id)"])
        try #require(result.status == 0, "stats: \(result.errors)")
        return try JSONDecoder().decode(ProgramStats.self, from: Data(result.output))
    }

    func programs(all: Bool = true) throws -> [ProgramStatus] {
        let result = try control(["ps", "--json"] + (all ? ["-a"] : []))
        try #require(result.status == 0, "ps: \(result.errors)")
        return try JSONDecoder().decode([ProgramStatus].self, from: Data(result.output))
    }

    func components() throws -> [RackStatus.Component] {
        let result = try control(["status", "--json"])
        try #require(result.status == 0, "status: \(result.errors)")
        return try JSONDecoder().decode(RackStatus.self, from: Data(result.output)).components
    }

    /// Asks again until `condition` holds; false when it does not within `limit`.
    func eventually(within limit: Duration = .seconds(10), _ condition: () throws -> Bool) throws -> Bool {
        let deadline = Deadline.after(limit)
        while !deadline.hasPassed {
            if try condition() { return true }
            usleep(20_000)
        }
        return false
    }

    private func tearDown() {
        let result = try? Command(Rack.legoctl, ["rack", "down", "--state", directory + "/state"]).run(
            within: .seconds(30))
        #expect(result?.status == 0, "rack down: \(result?.errors ?? "did not run")")
        #expect(leftovers() == [], "left behind after rack down")
        _ = try? Command("rm", ["-rf", directory]).run()
    }

    /// Processes that name the rack's directory, mounts below it, and descriptors of shared memory that outlived their makers.
    func leftovers() -> [String] { Self.leftovers(of: directory) }

    static func leftovers(of directory: String) -> [String] {
        var found: [String] = []
        let own = "\(getpid())"
        for entry in (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? [] where Int(entry) != nil {
            guard entry != own, let line = FileManager.default.contents(atPath: "/proc/\(entry)/cmdline") else {
                continue
            }
            let words = String(decoding: line, as: UTF8.self).replacingOccurrences(of: "\0", with: " ")
            if words.contains(directory) { found.append("process \(entry): \(words)") }
        }
        let mounts = String(
            decoding: FileManager.default.contents(atPath: "/proc/self/mounts") ?? Data(), as: UTF8.self)
        found += mounts.split(separator: "\n").filter { $0.contains(directory) }.map { "mount \($0)" }
        found += ((try? FileManager.default.contentsOfDirectory(atPath: "/dev/shm")) ?? [])
            .filter { $0.contains("lego") }.map { "/dev/shm/\($0)" }
        return found
    }
}
