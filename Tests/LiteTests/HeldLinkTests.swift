import Fabric
import Glibc
import Kernel
import Synchronization
import Testing
import Wire

@testable import Lite

extension LiteTests {
    /// A link that holds what is posted until the test lets it go.
    @Suite struct HeldLink {
        private func withPair(
            gate: Gate = Gate(),
            _ body: (LoopNetwork, TestRack<LoopDevice>, LiteNode<LoopDevice>, LiteNode<LoopDevice>, LitePeer) throws ->
                Void
        ) throws {
            let network = LoopNetwork()
            let rack = TestRack { LoopDevice(network) }
            defer { rack.close() }
            let a = try rack.node("a", { $0.callsPerPeer_max = 4 })
            let b = try rack.node("b", gate: gate, { $0.callsPerPeer_max = 4 })
            try body(network, rack, a, b, try a.connect(to: b.address, until: patience))
        }

        private func whileHeld(_ network: LoopNetwork, _ count: Int = 1, _ body: () -> Void) throws {
            network.hold()
            let opener = try KernelThread(name: "opener") {
                _ = eventually { network.heldCount >= count }
                network.letGo()
            }
            body()
            opener.join()
        }

        @Test func callsAndTransfersSleepUntilTheLinkAnswers() throws {
            try withPair { network, _, a, b, peer in
                for round in 0..<20 {
                    try whileHeld(network) {
                        #expect(a.call(peer, TestFunction.echo, bytes: [UInt8(round)]).bytes == [UInt8(round)])
                    }
                    b.pool[100] = UInt8(round)
                    try whileHeld(network) { #expect(a.read(peer, [a.piece(at: 0, 100, 1)]) == .ok) }
                    #expect(a.pool[0] == UInt8(round))
                    var former: UInt64 = 0
                    try whileHeld(network) {
                        let status = a.fetchAdd(peer, remoteOffset: 8, add: 1, former: &former, until: patience)
                        #expect(status == .ok)
                    }
                    #expect(former == UInt64(round))
                }
            }
        }

        /// Several sleepers on one completion queue: one sleeps on the descriptor and wakes the others.
        @Test func manySleepersOnOneQueue() throws {
            try withPair { network, _, a, b, peer in
                for round in 0..<20 {
                    network.hold()
                    let wrong = Atomic<Int>(0)
                    let opener = try KernelThread(name: "opener") {
                        _ = eventually { network.heldCount >= 8 }
                        network.letGo()
                    }
                    try onThreads(8) { thread in
                        let value = UInt8(round * 8 + thread)
                        if thread < 4 {
                            let answer = a.call(peer, TestFunction.echo, bytes: [value])
                            if answer != (.ok, [value]) { wrong.add(1, ordering: .relaxed) }
                        } else {
                            a.pool[thread * 8] = value
                            let status = a.write(peer, [a.piece(at: thread * 8, UInt64(thread * 8), 1)])
                            if status != .ok || b.pool[thread * 8] != value { wrong.add(1, ordering: .relaxed) }
                        }
                    }
                    opener.join()
                    #expect(wrong.load(ordering: .relaxed) == 0)
                }
            }
        }

        @Test func aTransferThatTimesOutNeverLands() throws {
            try withPair { network, rack, a, b, peer in
                a.pool[0] = 1
                b.pool[4096] = 9
                network.hold()
                #expect(a.write(peer, [a.piece(at: 0, 0, 1)], until: .after(.milliseconds(5))) == .timedOut)
                #expect(eventually { !peer.isConnected })
                #expect(a.read(peer, [a.piece(at: 100, 4096, 1)]) == .peerLost)
                network.letGo()
                #expect(b.pool[0] == 0 && a.pool[100] == 0)
                #expect(eventually { rack.losses.count(at: "a") == 1 && rack.losses.count(at: "b") == 1 })
                // The two find each other again.
                let second = try a.connect(to: b.address, until: patience)
                #expect(a.write(second, [a.piece(at: 0, 0, 1)]) == .ok)
                #expect(b.pool[0] == 1)
            }
        }

        @Test func aCallThatTimesOutBeforeItLeavesFreesItsSlotLater() throws {
            try withPair { network, _, a, _, peer in
                network.hold()
                for _ in 0..<4 {
                    let answer = a.call(peer, TestFunction.echo, bytes: [1], until: .after(.milliseconds(2)))
                    #expect(answer.status == .timedOut)
                }
                network.letGo()
                for round in 0..<20 {
                    #expect(a.call(peer, TestFunction.echo, bytes: [UInt8(round)]).bytes == [UInt8(round)])
                }
            }
        }

        @Test func aPeerLostWhileTheLinkIsHeldEndsEveryWait() throws {
            try withPair { network, _, a, b, peer in
                network.hold()
                let ended = Atomic<Int>(0)
                let disconnecter = try KernelThread(name: "disconnecter") {
                    _ = eventually { network.heldCount >= 6 }
                    b.peer(a.id).map { b.disconnect($0) }
                }
                try onThreads(8) { thread in
                    // Four slots for six calls: two of the callers wait for one.
                    let status =
                        thread < 6
                        ? a.call(peer, TestFunction.echo, bytes: [1]).status
                        : a.read(peer, [a.piece(at: 4096 * thread, 0, 4096)])
                    if status == .peerLost { ended.add(1, ordering: .relaxed) }
                }
                disconnecter.join()
                #expect(ended.load(ordering: .relaxed) == 8)
            }
        }

        /// The send queue of the device is far smaller than what is posted: everything waits its turn, nothing is lost.
        @Test func fullSendQueues() throws {
            try withPair { network, _, a, b, peer in
                let back = try #require(b.peer(a.id))
                network.limitSends(to: 3)
                let done = Atomic<Bool>(false)
                let wrong = Atomic<Int>(0)
                let flapper = try KernelThread(name: "flapper") {
                    while !done.load(ordering: .relaxed) {
                        network.hold()
                        usleep(100)
                        network.letGo()
                    }
                }
                try onThreads(6) { thread in
                    for round in 0..<60 {
                        let bytes = pattern(thread * 100 + round, 30)
                        if thread < 4 {
                            let (node, to) = thread % 2 == 0 ? (a, peer) : (b, back)
                            if node.call(to, TestFunction.echo, bytes: bytes, room: 32) != (.ok, bytes) {
                                wrong.add(1, ordering: .relaxed)
                            }
                        } else {
                            let pieces = (0..<10).map { a.piece(at: thread * 8192 + $0, UInt64(thread * 8192 + $0), 1) }
                            for index in 0..<10 { a.pool[thread * 8192 + index] = bytes[index] }
                            if a.write(peer, pieces) != .ok { wrong.add(1, ordering: .relaxed) }
                            for index in 0..<10 where b.pool[thread * 8192 + index] != bytes[index] {
                                wrong.add(1, ordering: .relaxed)
                            }
                        }
                    }
                }
                done.store(true, ordering: .relaxed)
                flapper.join()
                #expect(wrong.load(ordering: .relaxed) == 0)
            }
        }
    }
}
