import Fabric
import Glibc
import Kernel
import Synchronization
import Testing
import Wire

@testable import Lite

extension LiteTests {
    /// Processes that are killed: over shared memory, where a peer can die in the middle of anything.
    @Suite struct Kills {
        private func withRack(_ body: (TestRack<SoftDevice>) throws -> Void) throws {
            let rack = TestRack { try SoftDevice() }
            defer { rack.close() }
            try body(rack)
        }

        @Test func calleeKilledWhileCallsWait() throws {
            try withRack { rack in
                let a = try rack.node("a")
                let other = try rack.node("other")
                let child = try ChildNode(.serve)
                let peer = try a.connect(to: child.address, until: patience)
                let third = try a.connect(to: other.address, until: patience)
                let lost = Atomic<Int>(0)
                let callers = try (0..<6).map { _ in
                    try KernelThread(name: "caller") {
                        if a.call(peer, TestFunction.count, bytes: []).status == .peerLost {
                            lost.add(1, ordering: .relaxed)
                        }
                    }
                }
                // Both workers of the child block; the other calls are queued there.
                #expect(
                    eventually {
                        a.read(peer, [a.piece(at: 0, 0, 8)]) == .ok && a.pool.load(as: UInt64.self) == 2
                    })
                child.kill()
                for caller in callers { caller.join() }
                #expect(lost.load(ordering: .relaxed) == 6)
                #expect(a.read(peer, [a.piece(at: 0, 0, 8)]) == .peerLost)
                #expect(eventually { rack.losses.count(at: "a") == 1 })
                #expect(a.call(third, TestFunction.echo, bytes: [1]).bytes == [1])
            }
        }

        @Test func targetKilledUnderTransfers() throws {
            try withRack { rack in
                let a = try rack.node("a")
                for _ in 0..<5 {
                    let child = try ChildNode(.serve)
                    let peer = try a.connect(to: child.address, until: patience)
                    let rounds = Atomic<Int>(0)
                    let wrong = Atomic<Int>(0)
                    let victim = child.process
                    let killer = try KernelThread(name: "killer") {
                        _ = eventually { rounds.load(ordering: .relaxed) > 50 }
                        Glibc.kill(victim, SIGKILL)
                    }
                    try onThreads(3) { thread in
                        let pieces = [a.piece(at: thread << 18, UInt64(thread << 18), 1 << 18)]
                        while true {
                            let status = thread == 0 ? a.read(peer, pieces) : a.write(peer, pieces)
                            rounds.add(1, ordering: .relaxed)
                            if status == .peerLost { return }
                            if status != .ok {
                                wrong.add(1, ordering: .relaxed)
                                return
                            }
                        }
                    }
                    killer.join()
                    #expect(wrong.load(ordering: .relaxed) == 0)
                }
                #expect(eventually { rack.losses.count(at: "a") == 5 })
            }
        }

        @Test func callerKilledUnderLoad() throws {
            try withRack { rack in
                let a = try rack.node("a")
                let other = try rack.node("other")
                let third = try other.connect(to: a.address, until: patience)
                #expect(other.call(third, TestFunction.echo, bytes: [1]).bytes == [1])
                let before = openDescriptors()
                for round in 1...5 {
                    let child = try ChildNode(.hammer, parent: a.address)
                    #expect(eventually { a.peers.count == 2 })
                    // Its writes arrive, so it is in the midst of it.
                    a.pool[4096] = 1
                    #expect(eventually { a.pool.load(fromByteOffset: 4096, as: UInt8.self) == 0 })
                    child.kill()
                    #expect(eventually { rack.losses.count(at: "a") == round })
                    #expect(other.call(third, TestFunction.echoOnWorker, bytes: [2]).bytes == [2])
                }
                #expect(eventually { openDescriptors() <= before })
            }
        }
    }
}
