import Glibc
import Kernel
import ConfigurationFiles
import RackConfiguration
import Testing

@testable import ControlCommands

/// What is written down about a rack, and what is made of it after a crash.
@Suite(.serialized)
struct RackRecordTests {
    private func component(_ name: String, _ kind: String, _ pid: Int32) -> RackRecord.Component {
        RackRecord.Component(
            name: name, kind: kind, pid: pid, startTime: ProcessIdentity(of: pid)?.startTime ?? 0,
            liteAddress: "127.0.0.1:1", executable: "/bin/false", arguments: ["--name", name])
    }

    private func record(_ directory: String, _ components: [RackRecord.Component]) -> RackRecord {
        RackRecord(
            address: "127.0.0.1:7071", stateDirectory: directory, bootID: Host.bootID, components: components)
    }

    @Test func recordsSurviveBeingWrittenAndRead() throws {
        let scratch = try Scratch()
        #expect(try RackRecord.load(from: scratch.path) == nil)
        let record = record(scratch.path, [component("memory0", "memory", getpid())])
        try record.save()
        #expect(try RackRecord.load(from: scratch.path) == record)
        try record.save()
        record.delete()
        #expect(try RackRecord.load(from: scratch.path) == nil)
    }

    @Test func aDamagedRecordIsSaid() throws {
        let scratch = try Scratch()
        for text in ["", "{", "{}", #"{"version":99}"#] {
            try Files.replace(RackRecord.path(in: scratch.path), with: Array(text.utf8), mode: 0o644)
            #expect {
                _ = try RackRecord.load(from: scratch.path)
            } throws: { "\($0)".contains("rack.json is damaged") }
        }
    }

    @Test func aProcessIsKnownByItsNumberAndItsStart() throws {
        let child = try ChildProcess("sleep", ["1000"])
        let identity = try #require(ProcessIdentity(of: child.pid))
        #expect(identity.isAlive)
        #expect(!ProcessIdentity(pid: child.pid, startTime: identity.startTime + 1).isAlive)
        var later = record("/nowhere", [component("memory0", "memory", child.pid)])
        #expect(later.isAlive)
        later.bootID = "another boot"
        #expect(!later.isAlive)
        child.send(SIGKILL)
        let held = try #require(HeldProcess(identity))
        #expect(held.waitForEnd(until: .after(.seconds(10))))
        // Not yet waited for: a zombie is no living daemon.
        #expect(!identity.isAlive)
        #expect(HeldProcess(identity) == nil)
        #expect(ProcessIdentity(of: 0) == nil)
        #expect(ProcessIdentity(of: -1) == nil)
    }

    @Test func namesWithParenthesesDoNotConfuse() throws {
        let fields = (4...52).map(String.init).joined(separator: " ")
        let status = try #require(ProcessStatus(stat: "12 (a) S (b c) R 7 \(fields)"))
        #expect(status.name == "a) S (b c")
        #expect(status.state == "R" && status.parent == 7)
        // Field 22 of proc_pid_stat(5).
        #expect(status.startTime == 21)
        for broken in ["", "12", "12 (x", "12 (x) R 1 2", ")("] { #expect(ProcessStatus(stat: broken) == nil) }
    }

    @Test func aRackThatIsUpIsRefusedAndAStaleOneForgotten() throws {
        let scratch = try Scratch()
        let child = try ChildProcess("sleep", ["1000"])
        let record = record(
            scratch.path, [component("memory0", "memory", child.pid), component("memory1", "memory", 0)])
        try record.save()
        #expect {
            try RackUpCommand.refuseIfUp(scratch.path)
        } throws: {
            "\($0)"
                == "a rack is up already in \(scratch.path), at 127.0.0.1:7071 (1 of its 2 components run); stop it with "
                + "'legoctl rack down --state \(scratch.path)', or start another with --state"
        }
        child.send(SIGKILL)
        _ = child.finish()
        try RackUpCommand.refuseIfUp(scratch.path)
        #expect(try RackRecord.load(from: scratch.path) == nil)
        try RackUpCommand.refuseIfUp(scratch.path)
    }

    @Test func stoppingAsksFirstAndKillsThen() throws {
        let polite = try ChildProcess("sleep", ["1000"])
        let stubborn = try ChildProcess("sh", ["-c", "trap '' TERM; echo ready; while :; do sleep 1; done"])
        var byte: UInt8 = 0
        #expect(read(stubborn.output, &byte, 1) == 1)
        let record = record(
            "/nowhere",
            [
                component("processor0", "processor", polite.pid), component("memory0", "memory", stubborn.pid),
                component("storage0", "storage", 0),
            ])
        let (stopped, killed) = RackStopper.stop(record, within: .milliseconds(300))
        #expect(stopped == 2)
        #expect(killed == ["memory0"])
        #expect(polite.finish().end == .signaled(SIGTERM, dumpedCore: false))
        stubborn.closeOutput()
        #expect(stubborn.finish().end == .signaled(SIGKILL, dumpedCore: false))
        #expect(RackStopper.stop(record) == (0, []))
    }

    @Test func twoCommandsDoNotWorkOnOneRack() throws {
        let scratch = try Scratch()
        let lock = try RackLock(stateDirectory: scratch.path)
        #expect {
            _ = try RackLock(stateDirectory: scratch.path)
        } throws: { "\($0)".contains("another legoctl") }
        _ = consume lock
        _ = try RackLock(stateDirectory: scratch.path)
    }

    @Test func racksAreFoundByUserAndByAddress() throws {
        let scratch = try Scratch()
        let directory = scratch.path + "/run/lego"
        let entry = RackFinder.Entry(address: "127.0.0.1:7071", stateDirectory: "/var/lib/lego/x")
        try RackFinder.remember(entry, in: directory)
        #expect(try RackFinder.entry("\(getuid())", in: directory) == entry)
        #expect(try RackFinder.entry("at-127.0.0.1_7071", in: directory) == entry)
        RackFinder.forget(stateDirectory: "/somewhere/else", in: directory)
        #expect(try RackFinder.entry("\(getuid())", in: directory) == entry)
        RackFinder.forget(stateDirectory: "/var/lib/lego/x", in: directory)
        #expect(try RackFinder.entry("\(getuid())", in: directory) == nil)
    }

    @Test func thePlanStartsWhatTheConfigurationSays() throws {
        let text =
            "[rack]\nmemories = 2\nlog-level = \"error\"\nlease = \"2500ms\"\n[memory]\nsize = \"64MiB\"\n[override.memory1]\nsize = \"128MiB\"\n"
        let plan = try RackPlan(try settings(text), stateDirectory: "/s")
        #expect(plan.manager.arguments.starts(with: ["--listen", "127.0.0.1:0", "--api", "127.0.0.1:0"]))
        #expect(plan.stores.map(\.name) == ["memory0", "memory1", "storage0"])
        #expect(plan.manager.arguments.firstIndex(of: "--lease").map { plan.manager.arguments[$0 + 1] } == "2500ms")
        #expect(plan.processors.map(\.name) == ["processor0"])
        #expect(
            plan.stores[1].arguments == [
                "--name", "memory1", "--listen", "127.0.0.1:0", "--size", "\(128 << 20)", "--fabric", "automatic",
                "--log-level", "error",
            ])
        #expect(plan.stores[0].arguments.contains("\(64 << 20)"))
        #expect(plan.stores[2].arguments.contains("/s/storage0"))
    }

    /// Racks of one user that start at a time write one record of the last.
    @Test func severalWritersOfOneFile() async throws {
        let scratch = try Scratch()
        let path = scratch.path + "/record"
        // What a killed command left is in nobody's way.
        try Files.replace(path + ".new", with: [1, 2, 3], mode: 0o600)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for writer in UInt8(1)...4 {
                group.addTask {
                    for round in 1...100 {
                        try Files.replace(path, with: [UInt8](repeating: writer, count: round * 50), mode: 0o600)
                        let read = try #require(try Files.read(path))
                        #expect(Set(read).count == 1 && read.count % 50 == 0 && !read.isEmpty)
                    }
                }
            }
            try await group.waitForAll()
        }
        #expect(try Files.read(path + ".new") == nil)
    }

    @Test func anOverrideOfNobodyIsRefused() throws {
        #expect {
            _ = try RackPlan(try settings("\n[override.memroy1]\nsize = \"64MiB\"\n"), stateDirectory: "/s")
        } throws: {
            "\($0)".hasPrefix("rack.toml:3: the rack has no component 'memroy1'; its components: memory1, memory0,")
        }
    }

    private func settings(_ text: String) throws -> Settings {
        let scratch = try Scratch()
        let path = scratch.path + "/rack.toml"
        try Files.replace(path, with: Array(text.utf8), mode: 0o600)
        // The file's own name only, as in an error.
        chdir(scratch.path)
        defer { chdir("/") }
        return try Settings(
            schema: RackKeys.schema, file: ConfigurationFile(path: "rack.toml", schema: RackKeys.schema).settings)
    }
}
