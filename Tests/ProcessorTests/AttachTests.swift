import Glibc
import Kernel
import Testing
import Wire

@testable import ProcessorService

/// The standard streams of attached programs.
@Suite(.serialized) struct AttachTests {
    @Test func streamsAndExitStatus() throws {
        let harness = try ProgramHarness()
        let client = try harness.run(1, ["sh", "-c", "tr a-z A-Z; echo note >&2; exit 9"])
        try client.sendInput(Array("hello\n".utf8))
        let (output, error, exit) = try client.finish()
        #expect(output == "HELLO\n")
        #expect(error == "note\n")
        #expect(exit == AttachExit(state: .exited, exitStatus: 9, signal: 0, reason: ""))
        // The manager learns of the end before the client.
        #expect(harness.manager.reports.withLock { $0.map(\.exitStatus) } == [9])
    }

    @Test func megabytesBothWaysKeepTheirOrder() throws {
        let harness = try ProgramHarness()
        let client = try harness.run(1, ["sh", "-c", "cat > /tmp/all; cat /tmp/all"])
        var input: [UInt8] = []
        for number in 0..<400_000 { input.append(contentsOf: Array("\(number)\n".utf8)) }
        try client.sendInput(input)
        let outcome = try client.finish()
        #expect(outcome.output.utf8.elementsEqual(input))
        #expect(outcome.exit.exitStatus == 0)
    }

    @Test func slowReaderHoldsBackTheProgramOnly() throws {
        let harness = try ProgramHarness()
        let slow = try harness.run(1, ["sh", "-c", "head -c 30000000 /dev/zero; echo -n end"])
        // Another program runs to its end while nobody reads the first one's output.
        let quick = try harness.run(2, ["echo", "quick"])
        #expect(try quick.finish().output == "quick\n")
        #expect(harness.service.runningReports().map(\.program.rawValue) == [1])
        let outcome = try slow.finish()
        #expect(outcome.output.utf8.count == 30_000_003)
        #expect(outcome.output.hasSuffix("end"))
    }

    @Test func signalPassesInputThatNobodyReads() throws {
        let harness = try ProgramHarness()
        let client = try harness.run(1, ["sleep", "1000"])
        // All the credit: more than the pipe holds stays in the daemon, and the signal comes through.
        try client.send(.standardInput, [UInt8](repeating: 120, count: AttachFrame.payloadBytes_max))
        try client.send(.signal, [UInt8(SIGINT)])
        let exit = try client.finish().exit
        #expect(exit == AttachExit(state: .exited, exitStatus: -1, signal: UInt32(SIGINT), reason: ""))
    }

    @Test func interruptReachesChildrenAndTerminateOnlyTheFirst() throws {
        let harness = try ProgramHarness()
        let script = "trap 'echo term' TERM; trap 'echo int' INT; echo up; sleep 1000; echo next; sleep 1000; echo last"
        let client = try harness.run(1, ["bash", "-c", script])
        try client.await(output: "up\n")
        let shell = try #require(Self.firstProcess())
        #expect(eventually { readText("/proc/\(shell)/task/\(shell)/children") != "" })
        try client.send(.signal, [UInt8(SIGTERM)])
        try client.send(.signal, [UInt8(SIGINT)])
        try client.await(output: "next\n")
        try client.send(.signal, [UInt8(SIGKILL)])
        #expect(try client.finish().exit.signal == UInt32(SIGKILL))
    }

    /// Host number of the first process of the only program.
    private static func firstProcess() -> Int32? {
        guardianOfThisProcess().flatMap(child(of:)).flatMap(child(of:))
    }

    private static func child(of process: Int32) -> Int32? {
        readText("/proc/\(process)/task/\(process)/children").split(separator: " ").first.flatMap { Int32($0) }
    }

    @Test func endOfInputReachesTheProgram() throws {
        let harness = try ProgramHarness()
        let client = try harness.run(1, ["sh", "-c", "cat; echo over"])
        try client.send(.standardInput)
        #expect(try client.finish().output == "over\n")
    }

    @Test func programThatClosesItsInputLosesTheRest() throws {
        let harness = try ProgramHarness()
        let client = try harness.run(1, ["sh", "-c", "exec <&-; echo closed; sleep 0.2; exit 3"])
        try client.await(output: "closed\n")
        for _ in 0..<3 { try client.send(.standardInput, [UInt8](repeating: 120, count: 1000)) }
        #expect(try client.finish().exit.exitStatus == 3)
    }

    @Test func closedReaderRaisesSIGPIPE() throws {
        let harness = try ProgramHarness()
        let client = try harness.run(1, ["yes"])
        try client.await(output: "y\n")
        try client.send(.closed, [1])
        #expect(try client.finish().exit.signal == UInt32(SIGPIPE))
    }

    @Test func lostClientHangsUpTheProgram() throws {
        let harness = try ProgramHarness()
        var client: AttachTestClient? = try harness.run(1, ["sh", "-c", "echo up; exec sleep 1000"])
        try client?.await(output: "up\n")
        client = nil
        let report = try harness.report(of: 1)
        #expect(report.signal == UInt32(SIGHUP))
        #expect(report.reason == "the client that was attached has gone")
    }

    @Test func lostClientKillsAProgramThatIgnoresIt() throws {
        let harness = try ProgramHarness()
        var client: AttachTestClient? = try harness.run(1, ["sh", "-c", "trap '' HUP; echo up; sleep 1000"])
        try client?.await(output: "up\n")
        client = nil
        #expect(try harness.report(of: 1).signal == UInt32(SIGKILL))
    }

    @Test func orphanThatKeepsTheStreamDoesNotDelayTheEnd() throws {
        let harness = try ProgramHarness()
        let client = try harness.run(1, ["sh", "-c", "setsid sleep 1000 & echo done"])
        #expect(try client.finish().output == "done\n")
    }

    @Test func helloIsChecked() throws {
        let harness = try ProgramHarness()
        try harness.start(1, ["cat"])
        let address = harness.service.attachAddress
        let refused = "no program 1 here, or a wrong token"
        let wrong = try AttachTestClient(address, program: 1, token: [UInt8](repeating: 0, count: 16))
        #expect(try wrong.next() == AttachTestClient.Frame(kind: .refused, payload: Array(refused.utf8)))
        #expect(try wrong.next() == nil)
        #expect(try AttachTestClient(address, program: 2).next()?.text == "no program 2 here, or a wrong token")
        let stranger = try AttachTestClient(address, program: nil)
        try stranger.send(raw: Array("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".utf8))
        #expect(try stranger.next()?.text == "this is the attach port of a processor: connect with legoctl")
        #expect(
            try AttachTestClient(address, program: 1, mode: .logs).next()?.text
                == "program 1 has no log: its output went to whoever ran it")
        let first = try AttachTestClient(address, program: 1)
        #expect(try first.next()?.kind == .welcome)
        #expect(try AttachTestClient(address, program: 1).next()?.text == "somebody else is attached to program 1")
        try first.send(.standardInput)
        #expect(try first.finish().exit.exitStatus == 0)
    }

    @Test func silentConnectionsKeepNobodyOut() throws {
        let harness = try ProgramHarness()
        try harness.start(1, ["echo", "in"])
        let silent = try (0..<100).map { _ in try AttachTestClient(harness.service.attachAddress, program: nil) }
        let client = try AttachTestClient(harness.service.attachAddress, program: 1)
        #expect(try client.finish().output == "in\n")
        // The first ones have been dropped.
        #expect(try silent[0].next() == nil)
    }

    @Test func frameThatBreaksTheProtocolEndsTheConnection() throws {
        for bytes: [UInt8] in [[99, 0, 0, 0, 0], [4, 255, 255, 255, 255], [8, 0, 0, 0, 0], [7, 0, 0, 0, 0]] {
            let harness = try ProgramHarness()
            let client = try harness.run(1, ["cat"])
            #expect(try client.next()?.kind == .welcome)
            try client.send(raw: bytes)
            #expect(try client.next() == nil)
            #expect(try harness.report(of: 1).signal == UInt32(SIGHUP))
        }
    }

    @Test func moreInputThanTheCreditEndsTheConnection() throws {
        let harness = try ProgramHarness()
        let client = try harness.run(1, ["sleep", "1000"])
        for _ in 0..<4 { try client.send(.standardInput, [UInt8](repeating: 0, count: AttachFrame.payloadBytes_max)) }
        while let frame = try client.next() { #expect(frame.kind == .welcome || frame.kind == .inputCredit) }
        #expect(try harness.report(of: 1).signal == UInt32(SIGHUP))
    }
}
