import Fabric
import Glibc
import Kernel
import Lite
import Logging
import Testing
import Wire

@testable import ProcessorService

/// Who holds which program number, and what the manager may ask over Lite.
@Suite(.serialized) struct ProgramTableTests {
    private func program(_ id: UInt64, detached: Bool = false, log: String = "/nowhere") -> Program {
        let request = ManagerProcessorStart(
            program: ProgramID(rawValue: id), name: "test", arguments: ["true"], environment: [], workingDirectory: "/",
            user: 0, group: 0, groups: [], excacheBytes: 0, isDetached: detached, attachToken: ProgramHarness.token)
        return Program(request, plan: SandboxHarness.plan(["/bin/true"]), logPath: log)
    }

    @Test func numbersAreTakenOnce() {
        let table = ProgramTable()
        let id = ProgramID(rawValue: 1)
        #expect(table.claim(id) == .granted)
        #expect(table.claim(id) == .exists)
        table.abandon(id)
        #expect(table.claim(id) == .granted)
        #expect(table.add(program(1)) == .run)
        #expect(table.claim(id) == .exists)
        table.ended(id)
        #expect(table.claim(id) == .exists)
    }

    @Test func startsUnderWayCanBeCancelled() {
        let table = ProgramTable()
        let id = ProgramID(rawValue: 1)
        #expect(!table.cancel(id))
        #expect(table.claim(id) == .granted)
        #expect(table.cancel(id))
        #expect(table.add(program(1)) == .cancelled)
        #expect(!table.cancel(id))
    }

    @Test func closedTableTakesNothing() {
        let table = ProgramTable()
        #expect(table.claim(ProgramID(rawValue: 1)) == .granted)
        table.close()
        #expect(table.add(program(1)) == .closed)
        #expect(table.claim(ProgramID(rawValue: 2)) == .closed)
    }

    @Test func oldEndsAreForgottenWithTheirLogs() throws {
        let directory = try TemporaryDirectory()
        let log = try directory.write("1.log", "text")
        let table = ProgramTable()
        for id in 1...UInt64(ProgramTable.ended_max) + 1 {
            #expect(table.claim(ProgramID(rawValue: id)) == .granted)
            #expect(table.add(program(id, detached: true, log: id == 1 ? log : "/nowhere")) == .run)
            #expect(access(log, F_OK) == 0)
            table.ended(ProgramID(rawValue: id))
        }
        #expect(table[ProgramID(rawValue: 1)] == nil)
        #expect(table[ProgramID(rawValue: 2)] != nil)
        #expect(access(log, F_OK) != 0)
    }

    @Test func runningProgramsAreBounded() {
        let table = ProgramTable()
        for id in 1...UInt64(ProgramTable.running_max) { #expect(table.claim(ProgramID(rawValue: id)) == .granted) }
        #expect(table.claim(ProgramID(rawValue: 0)) == .full)
    }

    @Test func managerAsksOverLite() throws {
        let harness = try ProgramHarness()
        let processor = try Self.node("processor0")
        harness.service.offer(on: processor)
        try processor.start()
        defer { processor.close() }
        let manager = try Self.node("manager")
        try manager.start()
        defer { manager.close() }
        let deadline = Deadline.after(.seconds(20))
        let peer = try manager.connect(to: processor.address, until: deadline)
        let id = ProgramID(rawValue: 1)
        let request = harness.request(1, ["sh", "-c", "kill -STOP $$; exit 3"])
        let started = manager.call(
            peer, RackFunction.startProgram, request, answer: ProcessorManagerStarted.self, until: deadline)
        #expect(started.status == .ok)
        let refused = manager.call(
            peer, RackFunction.startProgram, harness.request(2, ["/nope"]), answer: ProcessorManagerStarted.self,
            until: deadline)
        #expect(refused.status == .system(ENOENT))
        #expect(refused.response?.exitStatus == 127)
        let statistics = manager.call(
            peer, RackFunction.programStatistics, ManagerProcessorStatistics(program: id),
            answer: ProgramStatistics.self, until: deadline)
        #expect(statistics.response?.faults == 42)
        let client = try AttachTestClient(harness.service.attachAddress, program: 1)
        #expect(try client.next()?.kind == .welcome)
        let kill = ManagerProcessorSignal(program: id, signal: UInt32(SIGKILL))
        let killed = manager.call(
            peer, RackFunction.signalProgram, kill, answer: Acknowledgement.self, until: deadline)
        #expect(killed.status == .ok)
        #expect(try client.finish().exit.signal == UInt32(SIGKILL))
        let late = manager.call(
            peer, RackFunction.signalProgram, ManagerProcessorSignal(program: ProgramID(rawValue: 9), signal: 15),
            answer: Acknowledgement.self, until: deadline)
        #expect(late.status == .notFound)
    }

    @Test func othersThanTheManagerAreRefused() throws {
        let harness = try ProgramHarness(manager: { _ in false })
        let processor = try Self.node("processor0")
        harness.service.offer(on: processor)
        try processor.start()
        defer { processor.close() }
        let stranger = try Self.node("memory0")
        try stranger.start()
        defer { stranger.close() }
        let deadline = Deadline.after(.seconds(20))
        let peer = try stranger.connect(to: processor.address, until: deadline)
        let started = stranger.call(
            peer, RackFunction.startProgram, harness.request(1, ["true"]), answer: ProcessorManagerStarted.self,
            until: deadline)
        #expect(started.status == .fenced)
        #expect(harness.service.runningReports().isEmpty)
    }

    private static func node(_ name: String) throws -> RackNode {
        let configuration = LiteConfiguration(
            name: name, listen: FabricAddress(host: "127.0.0.1", port: 0), poolBytes: 1 << 20)
        return try RackNode(device: RackDevice(), configuration: configuration)
    }
}
