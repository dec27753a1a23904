import Glibc
import Kernel
import Testing

@testable import ProcessorService

/// Sandboxes that are built before there is a program for them.
@Suite(.serialized) struct PreparedSandboxTests {
    private static func prepared() -> [Int32] {
        directoryEntries("/proc").compactMap { Int32($0) }.filter {
            readText("/proc/\($0)/comm") == "lego-prepared\n"
                && readText("/proc/\($0)/status").contains("PPid:\t\(getpid())\n")
        }
    }

    private static func children(of process: Int32) -> [Int32] {
        readText("/proc/\(process)/task/\(process)/children").split(separator: " ").compactMap { Int32($0) }
    }

    /// Waits until there is one, whose first process has built the root and waits.
    private static func awaitPrepared() throws -> Int32 {
        var found: Int32?
        _ = eventually {
            found = prepared().first { guardian in
                children(of: guardian).contains { readText("/proc/\($0)/mounts").contains(" /tmp tmpfs ") }
            }
            return found != nil
        }
        guard let found else { throw HarnessError.deadline("a prepared sandbox") }
        return found
    }

    @Test func theNextProgramTakesIt() throws {
        let harness = try ProgramHarness()
        #expect(Self.prepared().isEmpty)
        #expect(try harness.run(1, ["echo", "first"]).finish().output == "first\n")
        let guardian = try Self.awaitPrepared()
        let client = try harness.run(2, ["sh", "-c", "cat /proc/1/comm; echo x >/tmp/x; cat /tmp/x"])
        // It is the guardian of the program now, and another one is built.
        #expect(readText("/proc/\(guardian)/comm") == "lego-guardian\n")
        let outcome = try client.finish()
        #expect(outcome.output == "lego-init\nx\n")
        #expect(outcome.exit.exitStatus == 0)
        let next = try Self.awaitPrepared()
        #expect(next != guardian)
        harness.stop()
        #expect(Self.prepared().isEmpty)
        #expect(guardianOfThisProcess() == nil)
    }

    /// One that has died meanwhile costs the next program nothing but the time to build its own.
    @Test func aDeadOneIsNotUsed() throws {
        let harness = try ProgramHarness()
        #expect(try harness.run(1, ["echo", "first"]).finish().output == "first\n")
        let guardian = try Self.awaitPrepared()
        #expect(kill(guardian, SIGKILL) == 0)
        #expect(eventually { !isAlive(guardian) })
        #expect(try harness.run(2, ["echo", "second"]).finish().output == "second\n")
        let other = try Self.awaitPrepared()
        // Nor is one whose namespaces are gone.
        let inner = Self.children(of: other)
        #expect(inner.count == 1)
        for process in inner { #expect(kill(process, SIGKILL) == 0) }
        #expect(eventually { !isAlive(other) })
        #expect(try harness.run(3, ["echo", "third"]).finish().output == "third\n")
    }

    /// It ends with the service, without a program ever having used it, and with nothing of it left.
    @Test func nothingOfItStays() throws {
        let harness = try ProgramHarness()
        try harness.start(1, ["true"], detached: true)
        let guardian = try Self.awaitPrepared()
        let inner = Self.children(of: guardian)
        #expect(inner.count == 1)
        _ = try harness.report(of: 1)
        harness.stop()
        #expect(!isAlive(guardian))
        #expect(inner.allSatisfy { !isAlive($0) })
    }

    /// While the program starts that took the last one, none is built; its end leaves time for that.
    @Test func theEndOfAProgramHastensTheNext() throws {
        let prepared = PreparedSandbox(executable: SandboxHarness.executable, calm: .seconds(3600))
        try prepared.start()
        defer { prepared.close() }
        let preparation = SandboxPreparation(root: "/", temporaryBytes: 0)
        prepared.want(preparation)
        prepared.hasten()
        _ = try Self.awaitPrepared()
        guard let guardian = prepared.take(preparation) else {
            Issue.record("none is ready")
            return
        }
        Sandbox.end(guardian: guardian.process.raw, control: guardian.control.raw, unless: false)
    }
}
