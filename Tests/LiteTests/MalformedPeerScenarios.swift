import CLinux
import Fabric
import Glibc
import Kernel
import Testing
import Wire

@testable import Lite

/// A peer that speaks to a node's device without Lite, as an honest node would never do.
private final class RawPeer<Device: RDMADevice> {
    let device: Device
    let pool: Device.Region
    let messages: Device.Region
    let queue: Device.Queue
    private(set) var pairs: [Device.Pair] = []
    private(set) var answer: Greeting?
    let id = NodeID.random()
    let layout = MessageLayout(calls: 4, messageBytes: 1024)

    init(_ device: Device) throws {
        self.device = device
        pool = try device.allocate(bytes: 4096, access: .all)
        messages = try device.allocate(bytes: layout.bytes, access: .all)
        queue = try device.makeCompletionQueue(capacity: 256)
    }

    func greeting(_ index: Int) -> Greeting {
        Greeting(
            index: index, pairs: 2, node: id, poolAddress: pool.remoteAddress, poolBytes: 4096, poolKey: pool.remoteKey,
            poolAccess: .all, messageAddress: messages.remoteAddress, messageKey: messages.remoteKey, layout: layout)
    }

    /// Connects one queue pair with these bytes as its greeting; answers the acceptor's, or nil when it was refused.
    func connect(to address: FabricAddress, _ bytes: [UInt8]) -> [UInt8]? {
        do throws(FabricError) {
            let (pair, answer) = try device.connect(
                to: address, send: queue, receive: queue, parameters: QueuePairParameters(), privateData: bytes,
                until: patience,
                prepare: { (pair) throws(FabricError) in
                    for _ in 0..<8 { _ = pair.postReceive(id: 0, local: UnsafeBufferPointer(start: nil, count: 0)) }
                })
            pairs.append(pair)
            return answer
        } catch { return nil }
    }

    /// A whole link, as an honest initiator sets it up.
    func connect(to address: FabricAddress) throws {
        for index in 0..<2 {
            let bytes = try #require(connect(to: address, greeting(index).encode()))
            answer = try Greeting(decoding: bytes)
        }
    }

    /// Writes a message into a slot of the node's and announces it with any immediate.
    func send(on pair: Int = 0, slot: Int, _ bytes: [UInt8], immediate: UInt32) {
        guard let answer else { return }
        pool.base.copyMemory(from: bytes, byteCount: bytes.count)
        let elements = [ScatterElement(address: pool.base, count: bytes.count, localKey: pool.localKey)]
        elements.withUnsafeBufferPointer { elements in
            var work = WorkRequest(.writeWithImmediate, local: elements)
            work.remoteAddress = answer.messageAddress + UInt64(answer.layout.requestOffset(slot))
            work.remoteKey = answer.messageKey
            work.immediate = immediate
            _ = pairs[pair].postSend(work)
        }
    }

    /// A request as Lite encodes it.
    static func request(_ function: UInt32, count: Int, call: UInt64 = 1, body: Int? = nil) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: MessageHeader.encodedSize + (body ?? count))
        bytes.withUnsafeMutableBytes {
            MessageHeader(count: count, word: function, call: call).store(at: $0.baseAddress!)
        }
        return bytes
    }

    var isCutOff: Bool {
        withUnsafeTemporaryAllocation(of: WorkCompletion.self, capacity: 16) { _ = queue.poll(into: $0) }
        return pairs.allSatisfy { !$0.isConnected }
    }

    func close() {
        for pair in pairs { pair.disconnect() }
        device.close()
    }
}

struct MalformedGreetings: LiteScenario {
    func run<Device: RDMADevice>(_ rack: TestRack<Device>) throws {
        let (a, b) = (try rack.node("a"), try rack.node("b"))
        let peer = try b.connect(to: a.address, until: patience)
        let raw = try RawPeer(rack.makeDevice())
        defer { raw.close() }
        let good = raw.greeting(0)
        #expect(raw.connect(to: a.address, []) == nil)
        #expect(raw.connect(to: a.address, Array(good.encode().dropLast())) == nil)
        var garbage = SeededGenerator(3)
        for _ in 0..<20 {
            #expect(raw.connect(to: a.address, (0..<56).map { _ in .random(in: 0...255, using: &garbage) }) == nil)
        }
        // A second queue pair of a link that does not exist; sizes out of range; one index twice.
        #expect(raw.connect(to: a.address, raw.greeting(1).encode()) == nil)
        for change in [
            { $0.pairs = 1 }, { $0.pairs = 200 }, { $0.calls = 0 }, { $0.messageBytes = 1 << 30 },
            { $0.node = NodeID(rawValue: 0) }, { $0.poolAddress = .max }, { $0.messageAddress = .max - 5 },
        ] as [(inout Greeting) -> Void] {
            var bad = good
            change(&bad)
            #expect(raw.connect(to: a.address, bad.encode()) == nil)
        }
        var other = good
        other.version = 77
        let verdict = try #require(raw.connect(to: a.address, other.encode()))
        #expect(try Greeting(decoding: verdict).verdict == .version)
        other = good
        other.node = a.id
        let refused = try #require(raw.connect(to: a.address, other.encode()))
        #expect(try Greeting(decoding: refused).verdict == .oneself)
        #expect(raw.connect(to: a.address, good.encode()) != nil)
        #expect(raw.connect(to: a.address, good.encode()) != nil)
        #expect(b.call(peer, TestFunction.echo, bytes: [1]).bytes == [1])
        #expect(a.peers.count == 1 && rack.losses.count(at: "a") == 0)
    }
}

struct MalformedMessages: LiteScenario {
    func run<Device: RDMADevice>(_ rack: TestRack<Device>) throws {
        let (a, b) = (try rack.node("a"), try rack.node("b"))
        let peer = try b.connect(to: a.address, until: patience)
        let back = try #require(a.peer(b.id))
        typealias Raw = RawPeer<Device>
        let echo = UInt32(TestFunction.echo.rawValue)
        let join = Raw.request(0, count: 0)
        /// What is sent after the link was set up; whether it is joined first.
        let attacks: [(joins: Bool, attack: (Raw) -> Void)] = [
            (false, { $0.send(slot: 0, Raw.request(echo, count: 0), immediate: 0) }),
            (true, { $0.send(slot: 1, Raw.request(echo, count: 0), immediate: 5000) }),
            (true, { $0.send(slot: 1, Raw.request(echo, count: 0), immediate: 4) }),
            (true, { $0.send(slot: 1, Raw.request(echo, count: 0), immediate: 0x8000_0001) }),
            (true, { $0.send(slot: 1, Raw.request(echo, count: 100, body: 99), immediate: 1) }),
            (true, { $0.send(slot: 1, Raw.request(echo, count: 1025), immediate: 1) }),
            (true, { $0.send(slot: 1, [1, 2, 3], immediate: 1) }),
            (true, { $0.send(slot: 1, Raw.request(.max, count: .max, body: 0), immediate: 1) }),
            // A response that nobody waits for, on the queue pair of the node's own calls; a request there.
            (true, { $0.send(on: 1, slot: 1, Raw.request(0, count: 0), immediate: 0x8000_0001) }),
            (true, { $0.send(on: 1, slot: 1, Raw.request(echo, count: 0), immediate: 1) }),
            // A slot whose request is still being served.
            (
                true,
                { raw in
                    let block = UInt32(TestFunction.echoOnWorker.rawValue)
                    for _ in 0..<200 { raw.send(slot: 2, Raw.request(block, count: 0), immediate: 2) }
                    raw.send(slot: 2, [0], immediate: 2)
                }
            ),
        ]
        for (number, (joins, attack)) in attacks.enumerated() {
            let raw = try Raw(rack.makeDevice())
            defer { raw.close() }
            try raw.connect(to: a.address)
            if joins {
                raw.send(slot: 0, join, immediate: 0)
                #expect(eventually { a.peer(raw.id) != nil })
            }
            attack(raw)
            let isCutOff = eventually {
                // Whoever waits for a response takes what came on the queue pairs of the node's own calls.
                _ = a.call(back, TestFunction.echo, bytes: [])
                return raw.isCutOff && a.peer(raw.id) == nil
            }
            #expect(isCutOff, "attack \(number) pairs \(raw.pairs.map(\.isConnected)) peer \(a.peer(raw.id) == nil)")
            #expect(b.call(peer, TestFunction.echo, bytes: [1]).bytes == [1])
        }
        #expect(peer.isConnected && a.peers.count == 1)
    }
}

/// Random bytes and immediates: whatever comes, the node serves its honest peers on.
struct RandomMessages: LiteScenario {
    func run<Device: RDMADevice>(_ rack: TestRack<Device>) throws {
        let (a, b) = (try rack.node("a"), try rack.node("b"))
        let peer = try b.connect(to: a.address, until: patience)
        var random = SeededGenerator(11)
        for _ in 0..<40 {
            let raw = try RawPeer(rack.makeDevice())
            defer { raw.close() }
            try raw.connect(to: a.address)
            raw.send(slot: 0, RawPeer<Device>.request(0, count: 0), immediate: 0)
            for _ in 0..<50 {
                let slot = Int.random(in: 0..<4, using: &random)
                var bytes = (0..<Int.random(in: 1...64, using: &random)).map { _ in
                    UInt8.random(in: 0...255, using: &random)
                }
                if Bool.random(using: &random) {
                    let function = [TestFunction.echo, .init(rawValue: 0), TestFunction.absent].randomElement(
                        using: &random)!
                    bytes = RawPeer<Device>.request(
                        UInt32(function.rawValue), count: Int.random(in: 0...40, using: &random))
                }
                let immediate =
                    Bool.random(using: &random) ? UInt32(slot) : UInt32.random(in: 0...(.max), using: &random)
                raw.send(on: Int.random(in: 0...1, using: &random), slot: slot, bytes, immediate: immediate)
            }
        }
        #expect(b.call(peer, TestFunction.echo, bytes: [1]).bytes == [1])
        #expect(eventually { a.peers.count == 1 })
    }
}

extension LiteTests {
    @Suite struct MalformedPeers {
        @Test(arguments: DeviceKind.allCases) func malformedGreetings(_ kind: DeviceKind) throws {
            try run(MalformedGreetings.self, on: kind)
        }
        @Test(arguments: DeviceKind.allCases) func malformedMessages(_ kind: DeviceKind) throws {
            try run(MalformedMessages.self, on: kind)
        }
        @Test(arguments: DeviceKind.allCases) func randomMessages(_ kind: DeviceKind) throws {
            try run(RandomMessages.self, on: kind)
        }
    }
}
