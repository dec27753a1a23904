import Fabric
import Glibc
import Kernel
import Synchronization
import Testing
import Wire

@testable import Lite

/// Bytes that differ from call to call.
func pattern(_ seed: Int, _ count: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: seed &* 31 &+ $0 &* 7) }
}

struct EchoOfEverySize: LiteScenario {
    func run<Device: RDMADevice>(_ rack: TestRack<Device>) throws {
        let (a, b) = (try rack.node("a"), try rack.node("b"))
        let peer = try a.connect(to: b.address, until: patience)
        let most = a.configuration.messageBytes_max
        for size in [0, 1, 7, 8, 15, 16, 17, 63, 64, 200, 204, 205, 220, 221, 4095, 4096, 4097, most - 1, most] {
            for function in [TestFunction.echo, TestFunction.echoOnWorker] {
                let bytes = pattern(size, size)
                let answer = a.call(peer, function, bytes: bytes)
                #expect(answer.status == .ok)
                #expect(answer.bytes == bytes)
            }
        }
        // The callee calls back over the same connection.
        let back = try #require(b.peer(a.id))
        #expect(b.call(back, TestFunction.echo, bytes: [9]).bytes == [9])
        #expect(try b.connect(to: a.address, until: patience) === back)
        #expect(peer.id == b.id && back.id == a.id && peer.poolBytes == 1 << 20)
    }
}

struct Refusals: LiteScenario {
    func run<Device: RDMADevice>(_ rack: TestRack<Device>) throws {
        let a = try rack.node("a")
        let b = try rack.node("b") { $0.messageBytes_max = 1024 }
        let peer = try a.connect(to: b.address, until: patience)
        #expect(a.call(peer, TestFunction.absent, bytes: [1]).status == .noFunction)
        #expect(a.call(peer, TestFunction.small, bytes: pattern(1, 16)).status == .ok)
        #expect(a.call(peer, TestFunction.small, bytes: pattern(1, 17)).status == .tooLarge)
        #expect(a.call(peer, TestFunction.overflow, bytes: []).status == .tooLarge)
        #expect(a.call(peer, TestFunction.echo, bytes: pattern(2, 1024)).status == .ok)
        // More than the callee's messages hold, though this node's would.
        #expect(a.call(peer, TestFunction.echo, bytes: pattern(2, 1025)).status == .tooLarge)
        let short = a.call(peer, TestFunction.echo, bytes: pattern(3, 100), room: 99)
        #expect(short.status == .tooLarge && short.bytes.isEmpty)
        #expect(peer.isConnected)
        // A peer of one node is a stranger to another.
        #expect(b.call(peer, TestFunction.echo, bytes: [1]).status == .peerLost)
        #expect(b.read(peer, [b.piece(at: 0, 0, 8)]) == .peerLost)
    }
}

struct ManyCallers: LiteScenario {
    func run<Device: RDMADevice>(_ rack: TestRack<Device>) throws {
        let (a, b) = (try rack.node("a"), try rack.node("b"))
        let peer = try a.connect(to: b.address, until: patience)
        let wrong = Atomic<Int>(0)
        let calls = Device.self == SoftDevice.self ? 10_000 : 1_000
        try onThreads(8) { thread in
            for number in 0..<calls {
                let bytes = pattern(thread * calls + number, (thread * 37 + number) % 300)
                let function = number % 16 == 0 ? TestFunction.echoOnWorker : TestFunction.echo
                if a.call(peer, function, bytes: bytes, room: 300) != (.ok, bytes) {
                    wrong.add(1, ordering: .relaxed)
                }
            }
        }
        #expect(wrong.load(ordering: .relaxed) == 0)
    }
}

/// More callers than slots, in both directions at once, over several queue pairs.
struct FewSlots: LiteScenario {
    func run<Device: RDMADevice>(_ rack: TestRack<Device>) throws {
        func sizes(_ configuration: inout LiteConfiguration) {
            configuration.callsPerPeer_max = 3
            configuration.queuePairsPerPeer = 5
        }
        let (a, b) = (try rack.node("a", sizes), try rack.node("b", sizes))
        let there = try a.connect(to: b.address, until: patience)
        let back = try #require(b.peer(a.id))
        let wrong = Atomic<Int>(0)
        try onThreads(8) { thread in
            for number in 0..<500 {
                let bytes = pattern(thread * 1000 + number, 40)
                let answer =
                    thread % 2 == 0
                    ? a.call(there, TestFunction.echoOnWorker, bytes: bytes, room: 64)
                    : b.call(back, TestFunction.echo, bytes: bytes, room: 64)
                if answer != (.ok, bytes) { wrong.add(1, ordering: .relaxed) }
            }
        }
        #expect(wrong.load(ordering: .relaxed) == 0)
    }
}

struct LateReplies: LiteScenario {
    func run<Device: RDMADevice>(_ rack: TestRack<Device>) throws {
        let gate = Gate()
        let a = try rack.node("a") { $0.callsPerPeer_max = 4 }
        let b = try rack.node("b", gate: gate)
        // Also when an expectation fails: the workers of `b` must be able to end.
        defer { gate.open() }
        let peer = try a.connect(to: b.address, until: patience)
        for number in 0..<4 {
            let answer = a.call(
                peer, TestFunction.block, bytes: pattern(number, 50), until: .after(.milliseconds(10)))
            #expect(answer.status == .timedOut)
        }
        // Every slot waits for its late reply: there is none for another call.
        #expect(a.call(peer, TestFunction.echo, bytes: [1], until: .after(.milliseconds(10))).status == .timedOut)
        gate.open()
        for number in 0..<200 {
            let bytes = pattern(1000 + number, 50)
            #expect(a.call(peer, TestFunction.echo, bytes: bytes).bytes == bytes)
        }
        #expect(peer.isConnected)
        // All four slots are back.
        try onThreads(4) { thread in
            let answer = a.call(peer, TestFunction.block, bytes: [UInt8(thread)])
            #expect(answer == (.system(EAGAIN), [UInt8(thread)]))
        }
    }
}

struct BoundedQueue: LiteScenario {
    func run<Device: RDMADevice>(_ rack: TestRack<Device>) throws {
        let gate = Gate()
        let a = try rack.node("a")
        let b = try rack.node("b", gate: gate) {
            $0.workers = 1
            $0.workerQueue_max = 1
        }
        defer { gate.open() }
        let peer = try a.connect(to: b.address, until: patience)
        let first = try KernelThread(name: "first") {
            #expect(a.call(peer, TestFunction.block, bytes: [1]).status == .system(EAGAIN))
        }
        #expect(eventually { gate.arrivals == 1 })
        // One is queued, all others are turned away; whatever is on the poller is served on.
        let answered = Atomic<Int>(0)
        let second = try KernelThread(name: "second") {
            while a.call(peer, TestFunction.block, bytes: [2]).status == .busy {}
            answered.add(1, ordering: .relaxed)
        }
        #expect(
            eventually {
                a.call(peer, TestFunction.block, bytes: [3], until: .after(.milliseconds(1))).status == .busy
            })
        #expect(a.call(peer, TestFunction.echo, bytes: [4]).bytes == [4])
        gate.open()
        first.join()
        second.join()
        #expect(answered.load(ordering: .relaxed) == 1)
    }
}

struct Forwarding: LiteScenario {
    func run<Device: RDMADevice>(_ rack: TestRack<Device>) throws {
        let c = try rack.node("c")
        // Filled once `b` is connected to `c`.
        let next = Mutex<LitePeer?>(nil)
        let b = try rack.node(
            "b",
            prepare: { node in
                node.register(TestFunction.forward, requestBytes_max: 64, responseBytes_max: 64, on: .worker) {
                    [unowned node] _, request, response in
                    guard let peer = next.withLock({ $0 }) else { return CallResult(status: .notFound) }
                    return node.call(
                        peer, TestFunction.echoOnWorker, request: request, response: response, until: patience)
                }
            })
        let a = try rack.node("a")
        let peer = try a.connect(to: b.address, until: patience)
        #expect(a.call(peer, TestFunction.forward, bytes: [1]).status == .notFound)
        let third = try b.connect(to: c.address, until: patience)
        next.withLock { $0 = third }
        #expect(a.call(peer, TestFunction.forward, bytes: [1, 2]).bytes == [1, 2])
    }
}

struct Word: WireMessage, Equatable {
    var text: String
    init(text: String) { self.text = text }
    func encode(into writer: inout WireWriter) { writer.write(text) }
    init?(from reader: inout WireReader) {
        text = reader.readString(max: 1 << 20)
        if !reader.isValid { return nil }
    }
}

struct TypedMessages: LiteScenario {
    func run<Device: RDMADevice>(_ rack: TestRack<Device>) throws {
        let a = try rack.node("a")
        let b = try rack.node(
            "b",
            prepare: { node in
                node.register(TestFunction.text, Word.self, Word.self) { _, word in
                    switch word.text {
                    case "nothing": (.ok, nil)
                    case "refuse": (.notFound, Word(text: "why"))
                    case "long": (.ok, Word(text: String(repeating: "x", count: 1 << 20)))
                    default: (.ok, Word(text: word.text + "!"))
                    }
                }
            })
        let peer = try a.connect(to: b.address, until: patience)
        func ask(_ text: String) -> (status: Status, response: Word?) {
            a.call(peer, TestFunction.text, Word(text: text), until: patience)
        }
        #expect(ask("hello") == (.ok, Word(text: "hello!")))
        #expect(ask("refuse") == (.notFound, Word(text: "why")))
        #expect(ask("nothing") == (.malformed, nil))
        #expect(ask("long") == (.tooLarge, nil))
        #expect(ask(String(repeating: "y", count: 1 << 20)) == (.tooLarge, nil))
        #expect(a.call(peer, TestFunction.text, bytes: [5, 0, 0, 0, 1]).status == .malformed)
    }
}

extension LiteTests {
    @Suite struct Calls {
        @Test(arguments: DeviceKind.allCases) func echoOfEverySize(_ kind: DeviceKind) throws {
            try run(EchoOfEverySize.self, on: kind)
        }
        @Test(arguments: DeviceKind.allCases) func refusals(_ kind: DeviceKind) throws {
            try run(Refusals.self, on: kind)
        }
        @Test(arguments: DeviceKind.allCases) func manyCallers(_ kind: DeviceKind) throws {
            try run(ManyCallers.self, on: kind)
        }
        @Test(arguments: DeviceKind.allCases) func fewSlots(_ kind: DeviceKind) throws {
            try run(FewSlots.self, on: kind)
        }
        @Test(arguments: DeviceKind.allCases) func lateReplies(_ kind: DeviceKind) throws {
            try run(LateReplies.self, on: kind)
        }
        @Test(arguments: DeviceKind.allCases) func boundedQueue(_ kind: DeviceKind) throws {
            try run(BoundedQueue.self, on: kind)
        }
        @Test(arguments: DeviceKind.allCases) func forwarding(_ kind: DeviceKind) throws {
            try run(Forwarding.self, on: kind)
        }
        @Test(arguments: DeviceKind.allCases) func typedMessages(_ kind: DeviceKind) throws {
            try run(TypedMessages.self, on: kind)
        }
    }
}
