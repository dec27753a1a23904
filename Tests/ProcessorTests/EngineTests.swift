import Glibc
import Kernel
import Testing
import Wire

@testable import ProcessorService

/// Programs in sandboxes whose memory is the real engine's.
@Suite(.serialized) struct EngineTests {
    @Test func programsRunAsNatively() throws {
        let harness = try EngineHarness()
        let client = try harness.run(1, ["sh", "-c", "seq 20000 | sort -rn | head -2; exit 3"])
        let outcome = try client.finish()
        #expect(outcome.output == "20000\n19999\n")
        #expect(outcome.error == "")
        #expect(outcome.exit == AttachExit(state: .exited, exitStatus: 3, signal: 0, reason: ""))
    }

    @Test func twoProgramsShareTheCacheAndDoNotSeeEachOther() throws {
        let harness = try EngineHarness(excacheBytes: 32 << 20)
        let script =
            "import os; b = bytearray(24 << 20); print(sorted(p for p in os.listdir('/proc') if p.isdigit())[:2]"
        let first = try harness.run(1, ["python3", "-c", script + ", flush=True); input(); print(sum(b))"])
        // Neither each other's processes nor those of the rack.
        try first.await(output: "['2']\n")
        let second = try harness.run(2, ["python3", "-c", script + ", sum(b))"])
        #expect(try second.finish().output == "['2'] 0\n")
        try first.sendInput([10])
        #expect(try first.finish().output == "0\n")
    }

    @Test func lostMemoryEndsExactlyItsPrograms() throws {
        let harness = try EngineHarness(excacheBytes: 8 << 20)
        let script = "b = bytearray(b'x') * (32 << 20); print('built', flush=True); input(); print(len(b))"
        let victim = try harness.run(1, ["python3", "-c", script])
        try victim.await(output: "built\n")
        harness.loseMemory(0)
        let exit = try victim.finish().exit
        #expect(exit.state == .lost)
        #expect(exit.reason.hasPrefix("memory component memory0 was lost with "))
        #expect(exit.reason.hasSuffix(" MiB of this program"))
        let bystander = try harness.run(2, ["echo", "well"])
        #expect(try bystander.finish().output == "well\n")
    }

    @Test func fullMemoryEndsTheProgram() throws {
        let harness = try EngineHarness(excacheBytes: 8 << 20, memoryBytes: [8 << 20])
        let client = try harness.run(1, ["python3", "-c", "b = bytearray(b'x') * (64 << 20); print(len(b))"])
        let exit = try client.finish().exit
        #expect(exit.state == .exited)
        #expect(exit.signal == UInt32(SIGKILL))
        #expect(exit.reason != "")
    }

    @Test func killAmongForksAndExecsEndsTheProgram() throws {
        let harness = try EngineHarness()
        for id in 1...4 as ClosedRange<UInt64> {
            // Traced, injected and native processes at the moment of the kill.
            let client = try harness.run(id, ["sh", "-c", "echo up; while :; do /bin/true; done"])
            try client.await(output: "up\n")
            try client.send(.signal, [UInt8(SIGKILL)])
            #expect(try client.finish().exit.signal == UInt32(SIGKILL))
        }
        // It reports the end before it ends itself.
        #expect(eventually { guardianOfThisProcess() == nil })
    }

    @Test func guardianForgetsDeadAddressSpaces() throws {
        let harness = try EngineHarness()
        // Each turn makes two address spaces, by fork and by exec.
        let client = try harness.run(1, ["sh", "-c", "for i in $(seq 40); do /bin/true; done; echo done; read line"])
        try client.await(output: "done\n")
        let guardian = try #require(guardianOfThisProcess())
        #expect(Self.userfaultDescriptors(of: guardian) > 0)
        #expect(Self.userfaultDescriptors(of: guardian) <= 64)
        try client.sendInput([10])
        #expect(try client.finish().exit.exitStatus == 0)
    }

    private static func userfaultDescriptors(of process: Int32) -> Int {
        directoryEntries("/proc/\(process)/fd").count { name in
            var target = [CChar](repeating: 0, count: 64)
            let count = readlink("/proc/\(process)/fd/\(name)", &target, target.count - 1)
            let text = String(decoding: target.prefix(max(0, count)).map(UInt8.init(bitPattern:)), as: UTF8.self)
            return text == "anon_inode:[userfaultfd]"
        }
    }
}
