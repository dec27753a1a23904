import Fabric
import Kernel
import Synchronization
import Testing
import Wire

@testable import Lite

/// The same numbers in every run.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64
    init(_ seed: UInt64) { state = seed &* 0x9e37_79b9_7f4a_7c15 | 1 }
    mutating func next() -> UInt64 {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return state &* 0x2545_f491_4f6c_dd1d
    }
}

/// Random batches each way, compared with a model of both pools.
struct RandomTransfers: LiteScenario {
    func run<Device: RDMADevice>(_ rack: TestRack<Device>) throws {
        let bytes = 4 << 20
        let (a, b) = (try rack.node("a", poolBytes: bytes), try rack.node("b", poolBytes: bytes))
        let peer = try a.connect(to: b.address, until: patience)
        var random = SeededGenerator(7)
        for index in 0..<bytes { a.pool[index] = UInt8.random(in: 0...255, using: &random) }
        var (here, there) = (Array(a.pool), [UInt8](repeating: 0, count: bytes))
        for round in 0..<60 {
            // Pieces of one batch must not overlap at their target: each lives in a stripe of its own there.
            let count = [1, 2, 7, 8, 9, 16, 17, 40][round % 8]
            let stripe = bytes / count
            let reads = round % 2 == 1
            var pieces: [Transfer] = []
            for number in 0..<count {
                let length = Int.random(in: 0...min(stripe, round % 3 == 0 ? 5000 : stripe), using: &random)
                let target = number * stripe + Int.random(in: 0...(stripe - length), using: &random)
                let source = Int.random(in: 0...(bytes - length), using: &random)
                pieces.append(
                    reads ? a.piece(at: target, UInt64(source), length) : a.piece(at: source, UInt64(target), length))
                if reads {
                    here.replaceSubrange(target..<target + length, with: there[source..<source + length])
                } else {
                    there.replaceSubrange(target..<target + length, with: here[source..<source + length])
                }
            }
            #expect((reads ? a.read(peer, pieces) : a.write(peer, pieces)) == .ok)
        }
        #expect(Array(a.pool) == here)
        #expect(Array(b.pool) == there)
        #expect(a.read(peer, []) == .ok)
    }
}

struct TransferBounds: LiteScenario {
    func run<Device: RDMADevice>(_ rack: TestRack<Device>) throws {
        let a = try rack.node("a", poolBytes: 8192)
        let b = try rack.node("b", poolBytes: 4096)
        let guarded = try rack.node("guarded", poolBytes: 4096) { $0.poolAccess = .read }
        let peer = try a.connect(to: b.address, until: patience)
        let base = a.pool.baseAddress!
        let outside: [Transfer] = [
            a.piece(at: 0, 4096, 1), a.piece(at: 0, 4095, 2), a.piece(at: 0, 1, 4096), a.piece(at: 0, .max, 1),
            a.piece(at: 0, .max - 7, 8), a.piece(at: 0, 0, 4097), a.piece(at: 8192, 0, 1), a.piece(at: 8191, 0, 2),
            Transfer(local: base - 1, remoteOffset: 0, count: 1), Transfer(local: base, remoteOffset: 0, count: -1),
            Transfer(local: base, remoteOffset: 0, count: .max),
            Transfer(local: base + 1, remoteOffset: 1, count: .min),
        ]
        a.pool[4000] = 1
        for piece in outside {
            // A good piece in front: nothing of the batch is sent.
            #expect(a.read(peer, [a.piece(at: 4000, 0, 1), piece]) == .accessRefused)
            #expect(a.write(peer, [a.piece(at: 4000, 0, 1), piece]) == .accessRefused)
        }
        #expect(a.pool[4000] == 1 && b.pool[0] == 0)
        var former: UInt64 = 99
        for offset in [1, 4, 4089, 4096, UInt64.max - 7] {
            let status = a.fetchAdd(peer, remoteOffset: offset, add: 1, former: &former, until: patience)
            #expect(status == .accessRefused)
        }
        #expect(a.fetchAdd(peer, remoteOffset: 4088, add: 5, former: &former, until: patience) == .ok)
        #expect(former == 0 && b.pool[4088] == 5)
        let reader = try a.connect(to: guarded.address, until: patience)
        #expect(a.read(reader, [a.piece(at: 0, 0, 4096)]) == .ok)
        #expect(a.write(reader, [a.piece(at: 0, 0, 1)]) == .accessRefused)
        #expect(a.fetchAdd(reader, remoteOffset: 0, add: 1, former: &former, until: patience) == .accessRefused)
        #expect(peer.isConnected && reader.isConnected)
    }
}

/// Counters in one node's pool that others change: no update is lost, no former value is seen twice.
struct ContendedAtomics: LiteScenario {
    func run<Device: RDMADevice>(_ rack: TestRack<Device>) throws {
        let home = try rack.node("home")
        let others = [try rack.node("a"), try rack.node("b")]
        let peers = try others.map { try $0.connect(to: home.address, until: patience) }
        let rounds = 500
        let sum = Atomic<UInt64>(0)
        let failed = Atomic<Int>(0)
        try onThreads(6) { thread in
            let (node, peer) = (others[thread % 2], peers[thread % 2])
            var former: UInt64 = 0
            for _ in 0..<rounds {
                if node.fetchAdd(peer, remoteOffset: 64, add: 1, former: &former, until: patience) != .ok {
                    failed.add(1, ordering: .relaxed)
                }
                sum.add(former, ordering: .relaxed)
                // Adds one to the second word by compare and swap, as often as it takes.
                var seen: UInt64 = 0
                while true {
                    let status = node.compareSwap(
                        peer, remoteOffset: 72, expected: seen, desired: seen + 1, former: &former, until: patience)
                    if status != .ok { failed.add(1, ordering: .relaxed) }
                    if status != .ok || former == seen { break }
                    seen = former
                }
            }
        }
        let total = UInt64(6 * rounds)
        #expect(failed.load(ordering: .relaxed) == 0)
        #expect(home.pool.load(fromByteOffset: 64, as: UInt64.self) == total)
        #expect(home.pool.load(fromByteOffset: 72, as: UInt64.self) == total)
        // Every former value from 0 to the total was answered exactly once.
        #expect(sum.load(ordering: .relaxed) == total * (total - 1) / 2)
    }
}

/// Many threads transfer at once, each in its own stripes, while others call.
struct MixedTraffic: LiteScenario {
    func run<Device: RDMADevice>(_ rack: TestRack<Device>) throws {
        let stripe = 256 << 10
        let (a, b) = (try rack.node("a", poolBytes: 8 * stripe), try rack.node("b", poolBytes: 8 * stripe))
        let peer = try a.connect(to: b.address, until: patience)
        let wrong = Atomic<Int>(0)
        try onThreads(8) { thread in
            var random = SeededGenerator(UInt64(thread) + 1)
            let base = thread * stripe
            for round in 0..<60 {
                let pieces = (0..<12).map { a.piece(at: base + $0 * 8192, UInt64(base + (11 - $0) * 8192), 8192) }
                let fill = UInt8.random(in: 0...255, using: &random)
                for index in 0..<12 { a.pool[base + index * 8192] = fill &+ UInt8(index) }
                if a.write(peer, pieces) != .ok { wrong.add(1, ordering: .relaxed) }
                for index in 0..<12 { a.pool[base + index * 8192] = 0 }
                if a.read(peer, pieces) != .ok { wrong.add(1, ordering: .relaxed) }
                for index in 0..<12 where a.pool[base + index * 8192] != fill &+ UInt8(index) {
                    wrong.add(1, ordering: .relaxed)
                }
                let bytes = pattern(round, 20)
                if a.call(peer, TestFunction.echo, bytes: bytes, room: 32) != (.ok, bytes) {
                    wrong.add(1, ordering: .relaxed)
                }
            }
        }
        #expect(wrong.load(ordering: .relaxed) == 0)
    }
}

extension LiteTests {
    @Suite struct Transfers {
        @Test(arguments: DeviceKind.allCases) func randomTransfers(_ kind: DeviceKind) throws {
            try run(RandomTransfers.self, on: kind)
        }
        @Test(arguments: DeviceKind.allCases) func transferBounds(_ kind: DeviceKind) throws {
            try run(TransferBounds.self, on: kind)
        }
        @Test(arguments: DeviceKind.allCases) func contendedAtomics(_ kind: DeviceKind) throws {
            try run(ContendedAtomics.self, on: kind)
        }
        @Test(arguments: DeviceKind.allCases) func mixedTraffic(_ kind: DeviceKind) throws {
            try run(MixedTraffic.self, on: kind)
        }
    }
}
