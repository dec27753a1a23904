import Glibc
import Kernel
import Synchronization
import Testing
import Wire

@testable import ProcessorService

/// Many programs at once, of every kind and with every kind of end.
@Suite(.serialized) struct ProgramStressTests {
    /// Numbers the programs and collects what went wrong on the threads.
    private final class Ledger: Sendable {
        let next = Atomic<UInt64>(1)
        let faults = Mutex<[String]>([])
    }

    /// Different lives; every one is taken equally often.
    private static let kinds = 6

    @Test func programsAtOnceLeaveNothing() throws {
        let harness = try ProgramHarness()
        nonisolated(unsafe) let shared = harness
        let ledger = Ledger()
        let bound = directoryEntries("/proc/self/fd").count + ProgramHarness.waitingSandboxDescriptors
        let threads = try (0..<8).map { first in
            try KernelThread(name: "stress") {
                for turn in 0..<18 {
                    let id = ledger.next.add(1, ordering: .relaxed).oldValue
                    do {
                        try Self.live(id, kind: (first + turn) % Self.kinds, in: shared)
                    } catch {
                        ledger.faults.withLock { $0.append("program \(id): \(error)") }
                    }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(ledger.faults.withLock { $0 } == [])
        #expect(eventually { harness.service.runningReports().isEmpty })
        #expect(eventually { harness.manager.reports.withLock { $0.count } == 8 * 18 })
        #expect(eventually { guardianOfThisProcess() == nil })
        #expect(eventually { directoryEntries("/proc/self/fd").count <= bound })
    }

    private static func live(_ id: UInt64, kind: Int, in harness: ProgramHarness) throws {
        switch kind {
        case 0:
            let client = try harness.run(id, ["sh", "-c", "echo up; sleep 1000"])
            try client.await(output: "up\n")
            try client.send(.signal, [UInt8(SIGKILL)])
            try check(try client.finish().exit.signal == UInt32(SIGKILL), "killed by another signal")
        case 1:
            // Its client goes at once.
            let client = try harness.run(id, ["sh", "-c", "sleep 1000 & sleep 1000 & sleep 1000"])
            try check(try client.next()?.kind == .welcome, "no welcome")
        case 2:
            let client = try harness.run(id, ["cat"])
            try client.sendInput([UInt8](repeating: 65, count: 50_000))
            try check(try client.finish().output.utf8.count == 50_000, "input was lost")
        case 3: try harness.start(id, ["seq", "10000"], detached: true)
        case 4:
            try harness.start(id, ["sleep", "1000"], detached: true)
            harness.engine.end(ProgramID(rawValue: id), .lost("test"))
        default:
            let outcome = try harness.run(id, ["seq", "20000"]).finish()
            try check(outcome.output.utf8.count == 108_894 && outcome.exit.exitStatus == 0, "output was lost")
        }
    }

    private static func check(_ holds: Bool, _ fault: String) throws {
        if !holds { throw HarnessError.failed(fault) }
    }
}
