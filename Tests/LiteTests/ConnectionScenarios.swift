import Fabric
import Glibc
import Kernel
import Synchronization
import Testing
import Wire

@testable import Lite

/// Three nodes that all connect to each other from two threads each, at once: one connection between any two comes of it.
struct ConnectStorm: LiteScenario {
    func run<Device: RDMADevice>(_ rack: TestRack<Device>) throws {
        for _ in 0..<15 {
            let nodes = try (0..<3).map { try rack.node("n\($0)") }
            let failed = Mutex<[String]>([])
            try onThreads(12) { thread in
                let from = nodes[thread / 4]
                let to = nodes[(thread / 4 + 1 + thread % 2) % 3]
                do {
                    let peer = try from.connect(to: to.address, until: patience)
                    let answer = from.call(peer, TestFunction.echoOnWorker, bytes: [UInt8(thread)])
                    if peer.id != to.id || answer != (.ok, [UInt8(thread)]) || from.peer(to.id) !== peer {
                        failed.withLock { $0.append("\(thread): \(answer)") }
                    }
                } catch { failed.withLock { $0.append("\(thread): \(error)") } }
            }
            #expect(failed.withLock { $0 } == [])
            for node in nodes { #expect(node.peers.count == 2) }
            for name in ["n0", "n1", "n2"] { #expect(rack.losses.count(at: name) == 0) }
            for node in nodes { node.close() }
            for name in ["n0", "n1", "n2"] { #expect(rack.losses.count(at: name) == 2) }
            rack.losses.clear()
        }
    }
}

struct Disconnecting: LiteScenario {
    func run<Device: RDMADevice>(_ rack: TestRack<Device>) throws {
        let gate = Gate()
        let a = try rack.node("a")
        let b = try rack.node("b", gate: gate) { $0.workers = 4 }
        defer { gate.open() }
        let peer = try a.connect(to: b.address, until: patience)
        let back = try #require(b.peer(a.id))
        let lost = Atomic<Int>(0)
        let callers = try (0..<4).map { number in
            try KernelThread(name: "caller") {
                if a.call(peer, TestFunction.block, bytes: [1]).status == .peerLost { lost.add(1, ordering: .relaxed) }
            }
        }
        #expect(eventually { gate.arrivals == 4 })
        a.disconnect(peer)
        for caller in callers { caller.join() }
        #expect(lost.load(ordering: .relaxed) == 4)
        #expect(!peer.isConnected && a.peer(b.id) == nil && a.peers.isEmpty)
        #expect(a.call(peer, TestFunction.echo, bytes: []).status == .peerLost)
        #expect(a.write(peer, [a.piece(at: 0, 0, 8)]) == .peerLost)
        var former: UInt64 = 0
        #expect(a.fetchAdd(peer, remoteOffset: 0, add: 1, former: &former, until: patience) == .peerLost)
        #expect(eventually { !back.isConnected && rack.losses.count(at: "b") == 1 })
        #expect(eventually { rack.losses.count(at: "a") == 1 })
        // The same two nodes again: a new peer. The handlers of the old one still run, and answer nobody.
        let second = try a.connect(to: b.address, until: patience)
        #expect(second !== peer && second.id == peer.id)
        #expect(a.call(second, TestFunction.echo, bytes: [7]).bytes == [7])
        gate.open()
        #expect(a.call(second, TestFunction.block, bytes: [8]).bytes == [8])
        #expect(!peer.isConnected && rack.losses.count(at: "a") == 1)
        a.disconnect(peer)
        #expect(second.isConnected)
    }
}

/// `close` of the callee while calls are queued there and on their way.
struct ClosingUnderLoad: LiteScenario {
    func run<Device: RDMADevice>(_ rack: TestRack<Device>) throws {
        for _ in 0..<10 {
            let (a, b) = (try rack.node("a"), try rack.node("b"))
            let peer = try a.connect(to: b.address, until: patience)
            let started = Atomic<Int>(0)
            let wrong = Atomic<Int>(0)
            let closer = try KernelThread(name: "closer") {
                _ = eventually { started.load(ordering: .relaxed) > 200 }
                b.close()
            }
            try onThreads(4) { thread in
                while true {
                    started.add(1, ordering: .relaxed)
                    let status =
                        thread % 2 == 0
                        ? a.call(peer, TestFunction.echoOnWorker, bytes: pattern(thread, 64), room: 64).status
                        : a.write(peer, [a.piece(at: 0, 0, 65536)])
                    if status == .peerLost { return }
                    if status != .ok && status != .busy {
                        wrong.add(1, ordering: .relaxed)
                        return
                    }
                }
            }
            closer.join()
            #expect(wrong.load(ordering: .relaxed) == 0)
            a.close()
        }
    }
}

struct ConnectErrors: LiteScenario {
    func run<Device: RDMADevice>(_ rack: TestRack<Device>) throws {
        let a = try rack.node("a") { $0.peers_max = 1 }
        let b = try rack.node("b")
        let c = try rack.node("c")
        func reason(_ body: () throws -> LitePeer) -> String {
            do {
                _ = try body()
                return "connected"
            } catch { return "\(error)" }
        }
        #expect(reason { try b.connect(to: b.address, until: patience) }.contains("this node itself"))
        _ = try b.connect(to: a.address, until: patience)
        #expect(reason { try c.connect(to: a.address, until: patience) }.contains("as many peers as it allows"))
        #expect(reason { try a.connect(to: c.address, until: patience) }.contains("peers_max"))
        a.close()
        #expect(reason { try a.connect(to: c.address, until: patience) }.contains("not running"))
        #expect(reason { try c.connect(to: a.address, until: patience) }.contains("cannot reach"))
        #expect(throws: LiteError.self) { try a.start() }
        a.close()
        let idle = try LiteNode(
            device: rack.makeDevice(), configuration: LiteConfiguration(name: "idle", listen: anyPort, poolBytes: 4096))
        #expect(reason { try idle.connect(to: c.address, until: patience) }.contains("not running"))
        idle.close()
        for (change, word) in [
            ({ $0.poolBytes = 100 }, "poolBytes"), ({ $0.queuePairsPerPeer = 1 }, "queuePairsPerPeer"),
            ({ $0.callsPerPeer_max = 0 }, "callsPerPeer_max"), ({ $0.messageBytes_max = 10 }, "messageBytes_max"),
            ({ $0.workers = 0 }, "workers"),
        ] as [((inout LiteConfiguration) -> Void, String)] {
            #expect(performing(change, rack).contains(word))
        }
    }

    private func performing<Device: RDMADevice>(
        _ change: (inout LiteConfiguration) -> Void, _ rack: TestRack<Device>
    ) -> String {
        do {
            try rack.node("bad", change).close()
            return "started"
        } catch { return "\(error)" }
    }
}

/// A thousand connections and some nodes come and go: no descriptor stays open.
struct NoLeak: LiteScenario {
    func run<Device: RDMADevice>(_ rack: TestRack<Device>) throws {
        let (a, b) = (try rack.node("a"), try rack.node("b"))
        func turn() throws {
            let peer = try a.connect(to: b.address, until: patience)
            if a.call(peer, TestFunction.echo, bytes: [1]).bytes != [1] { Issue.record("the call failed") }
            a.disconnect(peer)
        }
        for _ in 0..<10 { try turn() }
        #expect(eventually { b.peers.isEmpty })
        let before = openDescriptors()
        for _ in 0..<1000 { try turn() }
        #expect(eventually { b.peers.isEmpty && openDescriptors() <= before })
        for _ in 0..<10 {
            let c = try rack.node("c")
            _ = try c.connect(to: b.address, until: patience)
            _ = try a.connect(to: c.address, until: patience)
            c.close()
        }
        rack.forget("c")
        #expect(eventually { a.peers.isEmpty && b.peers.isEmpty && openDescriptors() <= before })
    }
}

extension LiteTests {
    @Suite struct Connections {
        @Test(arguments: DeviceKind.allCases) func connectStorm(_ kind: DeviceKind) throws {
            try run(ConnectStorm.self, on: kind)
        }
        @Test(arguments: DeviceKind.allCases) func disconnecting(_ kind: DeviceKind) throws {
            try run(Disconnecting.self, on: kind)
        }
        @Test(arguments: DeviceKind.allCases) func closingUnderLoad(_ kind: DeviceKind) throws {
            try run(ClosingUnderLoad.self, on: kind)
        }
        @Test(arguments: DeviceKind.allCases) func connectErrors(_ kind: DeviceKind) throws {
            try run(ConnectErrors.self, on: kind)
        }
        @Test(arguments: DeviceKind.allCases) func noLeak(_ kind: DeviceKind) throws {
            try run(NoLeak.self, on: kind)
        }
    }
}
