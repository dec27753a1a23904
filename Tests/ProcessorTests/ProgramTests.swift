import CLinux
import Glibc
import Kernel
import Testing
import Fabric
import Logging
import Wire

@testable import ProcessorService

/// The life of submitted programs: starts, ends, reports, logs, shutdown.
@Suite(.serialized) struct ProgramTests {
    @Test func detachedProgramWritesItsLog() throws {
        let harness = try ProgramHarness()
        try harness.start(1, ["sh", "-c", "echo out; echo err >&2; cat; exit 4"], detached: true)
        let report = try harness.report(of: 1)
        #expect(report.exitStatus == 4)
        #expect(report.statistics.faults == 42)
        #expect(harness.engine.stopped.withLock { $0.map(\.rawValue) } == [1])
        let log = try AttachTestClient(harness.service.attachAddress, program: 1, mode: .logs).finish()
        #expect(log.output == "out\nerr\n")
        #expect(log.exit == AttachExit(state: .exited, exitStatus: 4, signal: 0, reason: ""))
        let client = try AttachTestClient(harness.service.attachAddress, program: 1)
        #expect(try client.next()?.text == "program 1 is detached: 'legoctl logs 1' shows its output")
    }

    @Test func logOfARunningProgramEndsWhereItIs() throws {
        let harness = try ProgramHarness()
        try harness.start(
            1, ["sh", "-c", "head -c 300000 /dev/zero; echo x > /dev/stderr; sleep 1000"], detached: true)
        #expect(eventually { Self.size("\(harness.directory.path)/logs/1.log") == 300_002 })
        let log = try AttachTestClient(harness.service.attachAddress, program: 1, mode: .logs).finish()
        #expect(log.output.utf8.count == 300_002)
        #expect(log.exit.state == .running)
    }

    private static func size(_ path: String) -> Int {
        var status = stat()
        return stat(path, &status) == 0 ? Int(status.st_size) : -1
    }

    @Test func logIsOutOfTheProgramsReach() throws {
        let harness = try ProgramHarness()
        try harness.start(1, ["sh", "-c", "echo kept; echo more > /dev/stdout; echo end"], detached: true)
        _ = try harness.report(of: 1)
        #expect(readText("\(harness.directory.path)/logs/1.log") == "kept\nmore\nend\n")
        var status = stat()
        #expect(stat("\(harness.directory.path)/logs/1.log", &status) == 0)
        #expect(status.st_mode & 0o777 == 0o600)
        #expect(status.st_uid == 0)
    }

    @Test func failedStartsLeaveNothing() throws {
        let harness = try ProgramHarness()
        let (status, answer) = harness.service.start(harness.request(1, ["/usr/bin/nope"]))
        #expect(status == .system(ENOENT))
        #expect(
            answer
                == ProcessorManagerStarted(
                    reason: "/usr/bin/nope: no such program in the tree of storage0", exitStatus: 127))
        #expect(harness.service.start(harness.request(1, ["/usr"])).1?.exitStatus == 126)
        let long = "/" + String(repeating: "n", count: 4000)
        let cut = try #require(harness.service.start(harness.request(1, [long])).1)
        #expect(cut.reason.utf8.count <= WireLimit.reason_max)
        #expect(harness.service.runningReports().isEmpty)
        // The number was not used up.
        let client = try harness.run(1, ["echo", "now"])
        #expect(try client.finish().output == "now\n")
        #expect(harness.service.start(harness.request(1, ["true"])).0 == .exists)
    }

    @Test func programThatTheEngineRefusesVanishes() throws {
        let harness = try ProgramHarness()
        harness.engine.isRefusing.withLock { $0 = true }
        let (status, answer) = harness.service.start(harness.request(1, ["true"]))
        #expect(status == .system(EIO))
        #expect(
            answer?.reason == "the program could not be started: memory engine: userfaultfd: Cannot allocate memory")
        #expect(guardianOfThisProcess() == nil)
        harness.engine.isRefusing.withLock { $0 = false }
        #expect(try harness.run(1, ["echo", "now"]).finish().output == "now\n")
    }

    @Test func startNeedsATree() throws {
        let harness = try ProgramHarness(tree: nil)
        let answer = harness.service.start(harness.request(1, ["true"])).1
        #expect(
            answer?.reason
                == "no storage component is mounted at processor0; is one healthy in 'legoctl status'?")
    }

    @Test func programWithoutClientIsCancelled() throws {
        let harness = try ProgramHarness(attachLimit: .seconds(1))
        try harness.start(1, ["sh", "-c", "echo never > /dev/shm/x"])
        let report = try harness.report(of: 1)
        #expect(report.state == .exited)
        #expect(report.signal == UInt32(SIGKILL))
        #expect(report.reason == "nobody attached to the program's streams within 1 s")
    }

    @Test func runningProgramsAreReported() throws {
        let harness = try ProgramHarness()
        let client = try harness.run(7, ["cat"])
        let running = harness.service.runningReports()
        #expect(running.map(\.state) == [.running])
        #expect(running.map(\.program.rawValue) == [7])
        #expect(running.first?.statistics.faults == 42)
        try client.send(.standardInput)
        _ = try client.finish()
        #expect(harness.service.runningReports().isEmpty)
    }

    @Test func lostMemoryEndsTheProgramWithItsReason() throws {
        let harness = try ProgramHarness()
        let client = try harness.run(1, ["sh", "-c", "echo up; sleep 1000"])
        try client.await(output: "up\n")
        harness.service.componentLost(NodeID(rawValue: 5))
        let exit = try client.finish().exit
        let reason = "memory component memory1 was lost"
        #expect(exit == AttachExit(state: .lost, exitStatus: -1, signal: UInt32(SIGKILL), reason: reason))
        #expect(try harness.report(of: 1).reason == reason)
    }

    @Test func refusedMemoryEndsTheProgramBySIGKILL() throws {
        let harness = try ProgramHarness()
        let client = try harness.run(1, ["sh", "-c", "echo up; sleep 1000"])
        try client.await(output: "up\n")
        harness.engine.end(ProgramID(rawValue: 1), .refused("out of remote memory"))
        let exit = try client.finish().exit
        #expect(
            exit == AttachExit(state: .exited, exitStatus: -1, signal: UInt32(SIGKILL), reason: "out of remote memory"))
    }

    @Test func managerThatIsAwayDelaysNoExitAndGetsItsReportLater() throws {
        let harness = try ProgramHarness()
        harness.manager.isAway.withLock { $0 = true }
        let client = try harness.run(1, ["sh", "-c", "exit 6"])
        #expect(try client.finish().exit.exitStatus == 6)
        #expect(harness.manager.reports.withLock { $0.isEmpty })
        harness.manager.isAway.withLock { $0 = false }
        #expect(try harness.report(of: 1).exitStatus == 6)
    }

    @Test func shutdownEndsEverything() throws {
        let harness = try ProgramHarness()
        let polite = try harness.run(
            1, ["sh", "-c", "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.01; done"])
        try polite.await(output: "up\n")
        let stubborn = try harness.run(2, ["sh", "-c", "trap '' TERM; echo up; sleep 1000"])
        try stubborn.await(output: "up\n")
        try harness.start(3, ["sleep", "1000"], detached: true)
        try harness.start(4, ["true"])
        harness.stop()
        let first = try polite.finish()
        #expect(first.output == "bye\n")
        #expect(first.exit.exitStatus == 5)
        let reason = "processor0 was shut down"
        #expect(
            try stubborn.finish().exit
                == AttachExit(state: .lost, exitStatus: -1, signal: UInt32(SIGKILL), reason: reason))
        let third = try harness.report(of: 3)
        #expect(third.state == .lost && third.signal == UInt32(SIGTERM) && third.reason == reason)
        #expect(try harness.report(of: 4).reason == reason)
        #expect(harness.service.start(harness.request(5, ["true"])).0 == .busy)
        #expect(harness.engine.stopped.withLock { $0.map(\.rawValue).sorted() } == [1, 2, 3, 4])
    }

    @Test func descriptorsAreGivenBack() throws {
        let harness = try ProgramHarness()
        let bound = directoryEntries("/proc/self/fd").count + ProgramHarness.waitingSandboxDescriptors
        for id in 1..<22 { _ = try harness.run(UInt64(id), ["true"]).finish() }
        #expect(eventually { directoryEntries("/proc/self/fd").count <= bound })
    }

    @Test func missingSandboxIsSaidAtTheStart() throws {
        let directory = try TemporaryDirectory()
        var configuration = ProcessorConfiguration(
            excacheBytes: 1 << 20, stateDirectory: directory.path, attachListen: .init(host: "127.0.0.1", port: 0))
        configuration.sandboxPath = "/nowhere/lego-sandbox"
        let service = try ProcessorService(
            configuration: configuration, engine: NativeEngine(),
            hooks: ProcessorHooks(name: { "" }, isManager: { _ in false }, tree: { nil }, report: { _ in true }),
            logger: .init(label: "test"))
        #expect { try service.start() } throws: { error in
            "\(error)" == "/nowhere/lego-sandbox is missing or cannot be executed; it belongs beside lego-processor"
        }
    }

    @Test func takenPortIsSaid() throws {
        let harness = try ProgramHarness()
        let address = try #require(FabricAddress(harness.service.attachAddress))
        let configuration = ProcessorConfiguration(
            excacheBytes: 1 << 20, stateDirectory: harness.directory.path, attachListen: address)
        #expect {
            try ProcessorService(
                configuration: configuration, engine: NativeEngine(),
                hooks: ProcessorHooks(name: { "" }, isManager: { _ in false }, tree: { nil }, report: { _ in true }),
                logger: .init(label: "test"))
        } throws: { "\($0)" == "cannot listen on \(address): Address already in use" }
    }
}
