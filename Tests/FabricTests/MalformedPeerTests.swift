import CLinux
import Glibc
import Kernel
import Synchronization
import Testing

@testable import Fabric

/// Whoever connects and talks nonsense is cut off; the device serves the others on, and no byte outside is touched.
@Suite(.serialized) struct MalformedPeerTests {
    /// A device that accepts every request and posts receives, until it is closed.
    private final class Victim: @unchecked Sendable {
        let device: SoftDevice
        let address: FabricAddress
        let region: SoftRegion
        private let queue: SoftCompletionQueue
        private let thread: KernelThread

        init(_ transport: SoftDeviceConfiguration.Transport) throws {
            device = try SoftDevice(configuration: SoftDeviceConfiguration(transport: transport))
            address = try device.listen(on: FabricAddress(host: "127.0.0.1", port: 0))
            queue = try device.makeCompletionQueue(capacity: 1 << 16)
            region = try device.allocate(bytes: 64 << 10, access: .all)
            memset(region.base, 0x5a, region.count)
            let (device, queue, region) = (device, queue, region)
            thread = try KernelThread(name: "victim") {
                let element = ScatterElement(address: region.base, count: 4096, localKey: region.localKey)
                while let request = try? device.nextRequest(until: .never) {
                    let pair = try? request.accept(
                        send: queue, receive: queue, parameters: QueuePairParameters(), privateData: [UInt8](),
                        prepare: { (pair: SoftQueuePair) in
                            for _ in 0..<8 {
                                withUnsafePointer(to: element) {
                                    _ = pair.postReceive(id: 1, local: UnsafeBufferPointer(start: $0, count: 1))
                                }
                            }
                        })
                    // Something of its own under way, which nonsense over TCP may pretend to answer. Over shared memory
                    // it would end the connection at once.
                    if pair?.link != .tcp { continue }
                    withUnsafePointer(to: element) { element in
                        _ = pair?.postSend(WorkRequest(.read, local: UnsafeBufferPointer(start: element, count: 1)))
                        _ = pair?.postSend(WorkRequest(.write, local: UnsafeBufferPointer(start: element, count: 1)))
                    }
                }
            }
        }

        /// Takes what has completed, so that flushes have room.
        func drain() {
            withUnsafeTemporaryAllocation(of: WorkCompletion.self, capacity: 64) { while queue.poll(into: $0) > 0 {} }
        }

        /// A well-behaved peer is served as if nothing had happened; nothing was written where nobody was allowed to.
        func checkHealth(_ transport: SoftDeviceConfiguration.Transport) throws {
            drain()
            let peer = try SoftDevice(configuration: SoftDeviceConfiguration(transport: transport))
            defer { peer.close() }
            let queue = try peer.makeCompletionQueue(capacity: 1024)
            let memory = try peer.allocate(bytes: 4096, access: .all)
            let (pair, _) = try peer.connect(
                to: address, send: queue, receive: queue, parameters: QueuePairParameters(), privateData: [UInt8](),
                until: .after(labTimeout), prepare: { (_: SoftQueuePair) in })
            let side = Side(device: peer, queue: queue, region: memory, pair: pair)
            #expect(side.post(.read, [side.element(0, 4096)], to: (region.remoteKey, region.remoteAddress + 8192)))
            // The victim's own requests have wrong keys, and end the connection at some moment.
            let completion = try side.next(.send)
            if completion.status == .success {
                #expect(memory.base.load(as: UInt64.self) == 0x5a5a_5a5a_5a5a_5a5a)
            } else {
                #expect(completion.status == .flushed)
            }
            #expect((4096..<region.count).allSatisfy { region.base.load(fromByteOffset: $0, as: UInt8.self) == 0x5a })
        }

        func close() {
            device.close()
            thread.join()
        }
    }

    private static func greetingOf(_ socket: Int32) throws -> AcceptorGreeting {
        let bytes = try Sockets.receive(socket, count: AcceptorGreeting.encodedSize, until: .after(labTimeout))
        return try #require(bytes.withUnsafeBytes { AcceptorGreeting(decoding: $0) })
    }

    private static func request(_ greeting: AcceptorGreeting) -> PairGreeting {
        PairGreeting(
            kind: .request, nonce: greeting.nonce, instance: .random(), receiveRequests_max: 16, sendRequests_max: 16,
            posted: 16, privateData: [])
    }

    private static func send(_ socket: Int32, _ bytes: [UInt8]) {
        // The device may have hung up already: that is what is asked of it.
        _ = bytes.withUnsafeBytes { Glibc.send(socket, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
    }

    @Test func greetings() throws {
        let victim = try Victim(.automatic)
        defer { victim.close() }
        var generator = SeededGenerator(seed: 1)
        for round in 0..<200 {
            let socket = try Sockets.connect(to: victim.address, until: .after(labTimeout))
            let greeting = try Self.greetingOf(socket.raw)
            var bytes = Self.request(greeting).encoded(PairGreeting.encodedSize)
            switch round % 4 {
            case 0: bytes = (0..<128).map { _ in UInt8.random(in: 0...255, using: &generator) }
            case 1: bytes = Array(bytes.prefix(Int.random(in: 0..<128, using: &generator)))
            case 2: bytes[Int.random(in: 0..<48, using: &generator)] ^= 0x40
            default: for index in 44..<60 { bytes[index] = UInt8.random(in: 0...255, using: &generator) }
            }
            Self.send(socket.raw, bytes)
        }
        try victim.checkHealth(.sharedMemory)
        try victim.checkHealth(.tcp)
    }

    @Test func frames() throws {
        let victim = try Victim(.tcp)
        defer { victim.close() }
        var generator = SeededGenerator(seed: 2)
        for _ in 0..<300 {
            let socket = try Sockets.connect(to: victim.address, until: .after(labTimeout))
            let greeting = try Self.greetingOf(socket.raw)
            Self.send(socket.raw, Self.request(greeting).encoded(PairGreeting.encodedSize))
            _ = try Sockets.receive(socket.raw, count: PairGreeting.encodedSize, until: .after(labTimeout))
            for sequence in 0..<UInt32.random(in: 1...6, using: &generator) {
                Self.send(socket.raw, Self.frame(sequence, victim.region, &generator))
            }
            victim.drain()
        }
        try victim.checkHealth(.tcp)
    }

    /// A frame that is nearly right: each field is right or wrong by chance.
    private static func frame(_ sequence: UInt32, _ region: SoftRegion, _ generator: inout SeededGenerator) -> [UInt8] {
        let kinds: [StreamFrame.Kind] = [
            .send, .write, .writeImmediate, .read, .fetchAdd, .compareSwap, .refusal, .readPiece, .lastReadPiece,
            .atomicResult, .credit,
        ]
        var frame = StreamFrame(kinds.randomElement(using: &generator) ?? .send)
        frame.sequence = Bool.random(using: &generator) ? sequence : .random(in: 0...3, using: &generator)
        frame.status = WorkStatus(rawValue: .random(in: 0...7, using: &generator)) ?? .success
        frame.count = [0, 8, 4096, 4097, 1 << 20, 1 << 30].randomElement(using: &generator) ?? 0
        // The key is never right: the health check finds every byte that was written all the same.
        frame.key = region.remoteKey ^ (1 << UInt32.random(in: 12..<32, using: &generator))
        frame.address = region.remoteAddress &+ UInt64.random(in: 0...1, using: &generator) &* 0xffff_ffff
        frame.posted = .random(in: 0...(.max), using: &generator)
        frame.acknowledged = [0, 1, sequence, .max].randomElement(using: &generator) ?? 0
        var bytes = [UInt8](repeating: 0, count: StreamFrame.encodedSize)
        bytes.withUnsafeMutableBytes { frame.encode(to: $0.baseAddress!) }
        if UInt8.random(in: 0..<8, using: &generator) == 0 { bytes[0] = .random(in: 0...255, using: &generator) }
        return bytes + [UInt8](repeating: 0xee, count: .random(in: 0...4096, using: &generator))
    }

    /// Memory files that are missing, too short or can shrink; and a ring full of nonsense.
    @Test func sharedMemory() throws {
        let victim = try Victim(.sharedMemory)
        defer { victim.close() }
        var generator = SeededGenerator(seed: 3)
        for round in 0..<200 {
            let socket = try Sockets.connect(to: victim.address, until: .after(labTimeout))
            let greeting = try Self.greetingOf(socket.raw)
            let control = try Sockets.connectLocal(greeting.instance)
            let isShort = round % 5 == 1
            let page = try Descriptor(
                checking: "memfd_create",
                round % 5 == 0
                    ? lego_memfd_create("page", UInt64(PairPage.fileBytes))
                    : lego_memfd_create_fixed("page", isShort ? 4096 : UInt64(PairPage.fileBytes)))
            let table = try Descriptor(
                checking: "memfd_create", lego_memfd_create_fixed("table", UInt64(RegionEntry.tableBytes)))
            let queuePage = try Descriptor(checking: "memfd_create", lego_memfd_create_fixed("queue", 4096))
            let event = try EventDescriptor()
            let descriptors = [page.raw, table.raw, event.raw, event.raw, queuePage.raw]
            let request = Self.request(greeting).encoded(PairGreeting.encodedSize)
            let count = round % 5 == 2 ? Int.random(in: 0..<5, using: &generator) : 5
            _ = lego_send_descriptors(control.raw, request, request.count, descriptors, count)
            guard round % 5 >= 3 else { continue }
            var answer = [UInt8](repeating: 0, count: 256)
            try Sockets.wait(for: control.raw, Int16(POLLIN), until: .after(labTimeout), "recv")
            _ = ReceivedPacket(from: control.raw, into: &answer)
            let memory = try MemoryFile(mapping: page, bytes: PairPage.fileBytes)
            Self.scribble(PairPage(base: memory.base), &generator)
            victim.drain()
            var nonsense = (0..<64).map { _ in UInt8.random(in: 0...255, using: &generator) }
            nonsense[0] = .random(in: 1...17, using: &generator)
            for index in 1..<4 { nonsense[index] = 0 }
            Self.send(control.raw, Array(nonsense.prefix(round % 2 == 0 ? 8 : 40)))
            victim.drain()
        }
        try victim.checkHealth(.sharedMemory)
    }

    private static func scribble(_ page: PairPage, _ generator: inout SeededGenerator) {
        for word in [PairPage.Word.posted, PairPage.Word.ringHead, PairPage.Word.slotHead] {
            lego_atomic_store_u64(page.word64(word), .random(in: 0...(.max), using: &generator))
        }
        for number in 0..<UInt64(PairPage.slots) {
            let slot = page.slot(number)
            for offset in stride(from: 4, to: PieceSlot.bytes, by: 4) {
                let word = UInt32.random(in: 0...(Bool.random(using: &generator) ? 1024 : .max), using: &generator)
                slot.base.storeBytes(of: word, toByteOffset: offset, as: UInt32.self)
            }
            // Mostly there, as far as the stamp says.
            let isThere = UInt32.random(in: 0..<8, using: &generator) != 0
            lego_atomic_store_u32(slot.stamp, isThere ? PieceSlot.stamp(number) : .random(in: 0...3, using: &generator))
        }
    }
}

/// Random numbers that are the same in every run (SplitMix64).
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var word = state
        word = (word ^ word >> 30) &* 0xbf58_476d_1ce4_e5b9
        word = (word ^ word >> 27) &* 0x94d0_49bb_1331_11eb
        return word ^ word >> 31
    }
}
