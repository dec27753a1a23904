import Glibc
import Kernel
import Synchronization
import Testing
import Wire

@testable import Fabric

/// What a link model promises: the time that operations take, their order, and that nothing is lost by it.
@Suite(.serialized) struct LinkModelTests {
    /// A clock that stands still until it is moved.
    private final class HandClock: Sendable {
        private let time = Atomic<UInt64>(1_000_000_000)
        var clock: LinkClock { LinkClock(now: { self.time.load(ordering: .sequentiallyConsistent) }) }
        func advance(_ nanoseconds: UInt64) { time.add(nanoseconds, ordering: .sequentiallyConsistent) }
    }

    /// 10 µs, and a byte a nanosecond.
    private static let slow = LinkModel(latency_ns: 10_000, bytesPerSecond: 1_000_000_000)!

    /// Two connected devices, the left one's end under a model and by a clock.
    private func withLab(
        _ model: LinkModel?, path: FabricPath = .automatic, clock: LinkClock = .monotonic,
        parameters: QueuePairParameters = QueuePairParameters(), _ body: (Lab<HybridDevice>) throws -> Void
    ) throws {
        var configuration = HybridDeviceConfiguration(path: path)
        configuration.clock = clock
        let (left, right) = (configuration, HybridDeviceConfiguration(path: path))
        let bench = Bench(
            make: { try HybridDevice(right) }, makeLeft: { try HybridDevice(left) }, host: "127.0.0.1")
        try bench.withLab(parameters: parameters) { lab in
            // The peer's memory is mapped with the first transfer, by another thread.
            #expect(lab.left.post(.write, [lab.left.element(0, 8)], to: lab.right.remote()))
            try lab.left.expectNext(.success)
            try lab.left.pair.follow(model.map { LinkLine($0) })
            try body(lab)
        }
    }

    // MARK: Texts and arithmetic

    @Test func texts() {
        for preset in LinkModel.presets {
            #expect(LinkModel(preset.name) == preset.model)
            #expect(preset.model.description == preset.name)
        }
        #expect(LinkModel("custom:600:25000000000") == LinkModel(latency_ns: 600, bytesPerSecond: 25_000_000_000))
        #expect(LinkModel("custom:600:25000000000")?.description == "custom:600:25000000000")
        #expect(LinkModel("custom:500:12500000000")?.description == "edr")
        for text in [
            "", "EDR", "edr ", "custom", "custom:1", "custom:1:", "custom::1000000", "custom:-1:1000000",
            "custom:+1:1000000", "custom:1:999999", "custom:1000000001:1000000", "custom:1:10000000000001",
            "custom:1:1000000:1", "custom:1:99999999999999999999", "custom:1:1e9",
        ] {
            #expect(LinkModel(text) == nil, "\(text)")
        }
    }

    @Test func bandwidthIsSharedAndDirectionsAreNot() {
        let line = LinkLine(Self.slow)
        #expect(line.reserve(0, .outward, now: 5_000) == 15_000)
        #expect(line.reserve(1_000, .outward, now: 5_000) == 16_000)
        // Behind the one before, whoever posted it.
        #expect(line.reserve(1_000, .outward, now: 5_500) == 17_000)
        #expect(line.reserve(1_000, .inward, now: 5_500) == 16_500)
        // The link has been idle: nothing is saved up.
        #expect(line.reserve(1_000, .outward, now: 100_000) == 111_000)
        // Short messages are not rounded away: 64 B at 50 GB/s take 1.28 ns.
        let fast = LinkLine(LinkModel("membus")!)
        for _ in 0..<999 { _ = fast.reserve(64, .outward, now: 0) }
        #expect((50 + 1_260...50 + 1_280).contains(fast.reserve(64, .outward, now: 0)))
    }

    // MARK: Operations

    @Test(arguments: [FabricPath.automatic, .tcp])
    func operationsTakeTheirTime(path: FabricPath) throws {
        let hand = HandClock()
        try withLab(Self.slow, path: path, clock: hand.clock) { lab in
            let (left, right) = (lab.left, lab.right)
            right.fill(0, 8192, seed: 3)
            #expect(left.post(.read, [left.element(0, 1_000)], id: 7, to: right.remote()))
            // The data moves while the time passes.
            while !areEqual(left, 0, right, 0, 1_000) { #expect(left.poll() == nil) }
            hand.advance(10_999)
            #expect(left.poll() == nil)
            hand.advance(1)
            let completion = try left.expectNext(.success, .send)
            #expect(completion.id == 7 && completion.count == 1_000 && completion.queuePair == left.pair.number)
            #expect(left.poll() == nil)
        }
    }

    /// A short operation behind a long one in the other direction is not reported before it.
    @Test func orderIsKept() throws {
        let hand = HandClock()
        try withLab(Self.slow, clock: hand.clock) { lab in
            let (left, right) = (lab.left, lab.right)
            #expect(left.post(.write, [left.element(0, 8_000)], id: 1, to: right.remote()))
            #expect(left.post(.read, [left.element(16_384, 8)], id: 2, to: right.remote(16_384)))
            #expect(left.post(.fetchAdd, [left.element(32_768, 8)], id: 3, to: right.remote(32_768)) { $0.operand = 5 })
            hand.advance(17_999)
            #expect(left.poll() == nil)
            hand.advance(1)
            try #require(left.next().id == 1)
            try #require(left.next().id == 2)
            #expect(left.poll() == nil)
            hand.advance(8)
            try #require(left.next().id == 3)
            #expect((right.region.base + 32_768).load(as: UInt64.self) == 5)
        }
    }

    /// A message is not there before its time, and what was written before it is there with it.
    @Test(arguments: [FabricPath.automatic, .tcp])
    func messagesArriveInTime(path: FabricPath) throws {
        let hand = HandClock()
        try withLab(Self.slow, path: path, clock: hand.clock) { lab in
            let (left, right) = (lab.left, lab.right)
            #expect(right.postReceive([right.element(0, 64)], id: 11))
            #expect(right.postReceive([], id: 12))
            left.fill(0, 4096, seed: 9)
            #expect(left.post(.send, [left.element(0, 64)], id: 1) { $0.isInline = true })
            // Inline bytes were taken at the post.
            left.fill(0, 64, seed: 10)
            #expect(
                left.post(.write, [left.element(1024, 36)], id: 2, to: right.remote(4096)) { $0.isSignaled = false })
            #expect(
                left.post(.writeWithImmediate, [left.element(2048, 900)], id: 3, to: right.remote(8192)) {
                    $0.immediate = 77
                })
            hand.advance(10_063)
            for _ in 0..<1000 { #expect(left.poll() == nil && right.poll() == nil) }
            hand.advance(1)
            #expect(try left.next(.send).id == 1)
            #expect(try right.next().id == 11)
            left.fill(0, 64, seed: 9)
            #expect(areEqual(left, 0, right, 0, 64))
            hand.advance(935)
            for _ in 0..<1000 { #expect(left.poll() == nil && right.poll() == nil) }
            hand.advance(1)
            #expect(try left.next(.send).id == 3)
            let immediate = try right.next()
            #expect(immediate.id == 12 && immediate.immediate == 77 && immediate.count == 900)
            #expect(areEqual(left, 1024, right, 4096, 36) && areEqual(left, 2048, right, 8192, 900))
        }
    }

    /// The queue is full with what has not been reported, and empties as it is.
    @Test func fullQueue() throws {
        let hand = HandClock()
        var parameters = QueuePairParameters()
        parameters.sendRequests_max = 4
        try withLab(Self.slow, clock: hand.clock, parameters: parameters) { lab in
            let (left, right) = (lab.left, lab.right)
            for round in 0..<5 {
                let isRoom = left.post(.write, [left.element(0, 100)], id: UInt64(round), to: right.remote())
                #expect(isRoom == (round < 4))
            }
            hand.advance(10_200)
            try #require(left.next().id == 0)
            try #require(left.next().id == 1)
            #expect(left.poll() == nil)
            #expect(left.post(.write, [left.element(0, 100)], id: 5, to: right.remote()))
            hand.advance(100_000)
            let rest = try (0..<3).map { _ in try left.next().id }
            #expect(rest == [2, 3, 5])
        }
    }

    // MARK: Ends

    /// A refusal is reported at once, after what came before it; what comes behind it is flushed.
    @Test func errorsAreNotHeld() throws {
        let hand = HandClock()
        try withLab(Self.slow, clock: hand.clock) { lab in
            let (left, right) = (lab.left, lab.right)
            #expect(left.post(.write, [left.element(0, 100)], id: 1, to: right.remote()))
            #expect(left.post(.write, [left.element(0, 100)], id: 2, to: (right.region.remoteKey ^ 1, 0)))
            #expect(left.post(.send, [left.element(0, 8)], id: 3) { $0.isSignaled = false })
            let ended = try (0..<3).map { _ in try left.next() }
            #expect(ended.map(\.id) == [1, 2, 3])
            #expect(ended.map(\.status) == [.success, .remoteAccess, .flushed])
            #expect(!left.pair.isConnected)
            #expect(left.post(.write, [left.element(0, 100)], id: 4, to: right.remote()))
            #expect(try left.next().status == .flushed)
        }
    }

    /// Faults that a device finds when a request is posted are found under a model, too.
    @Test func faultyRequestsAreRefused() throws {
        for isInline in [false, true] {
            try withLab(Self.slow) { lab in
                let left = lab.left
                let elements =
                    isInline ? [left.element(0, 4096)] : [ScatterElement](repeating: left.element(0, 8), count: 9)
                #expect(left.post(.write, elements, to: lab.right.remote()) { $0.isInline = isInline })
                try left.expectNext(isInline ? .localLength : .localProtection)
            }
        }
    }

    /// When the peer leaves, all that is held or waits to be sent comes back at once.
    @Test(arguments: [FabricPath.automatic, .tcp])
    func disconnectionFlushes(path: FabricPath) throws {
        let hand = HandClock()
        try withLab(Self.slow, path: path, clock: hand.clock) { lab in
            let (left, right) = (lab.left, lab.right)
            #expect(left.postReceive([left.element(0, 8)], id: 90))
            #expect(right.postReceive([right.element(0, 8)]))
            #expect(left.post(.send, [left.element(0, 8)], id: 1))
            #expect(left.post(.write, [left.element(0, 8)], id: 2, to: right.remote()))
            right.pair.disconnect()
            let ended = try (0..<3).map { _ in try left.next() }
            #expect(Set(ended.map(\.id)) == [1, 2, 90])
            #expect(ended.allSatisfy { $0.status == .flushed })
        }
    }

    // MARK: Switching

    @Test func switchingKeepsOrderAndGivesDirectAccessBack() throws {
        let hand = HandClock()
        try withLab(nil, clock: hand.clock) { lab in
            let (left, right) = (lab.left, lab.right)
            let remote = right.remote()
            func isDirect() -> Bool {
                let place = left.pair.beginAccess(remote.key, address: remote.address, count: 8, .read)
                if place != nil { left.pair.endAccess() }
                return place != nil
            }
            // Without a model: at once, and the peer's memory can be reached. This completion is still to be taken.
            #expect(left.post(.write, [left.element(0, 8)], id: 1, to: remote))
            #expect(isDirect())
            try left.pair.follow(LinkLine(Self.slow))
            #expect(!isDirect())
            #expect(left.post(.write, [left.element(0, 8)], id: 2, to: remote))
            try #require(left.next().id == 1)
            #expect(left.poll() == nil)
            try left.pair.follow(nil)
            #expect(isDirect())
            #expect(left.post(.write, [left.element(0, 8)], id: 3, to: remote))
            #expect(left.poll() == nil)
            hand.advance(10_008)
            try #require(left.next().id == 2)
            try #require(left.next().id == 3)
            #expect(left.post(.write, [left.element(0, 8)], id: 4, to: remote))
            try #require(left.next().id == 4)
            let traffic = left.pair.traffic
            #expect(traffic.requests == 5 && traffic.bytesOut == 40 && traffic.bytesIn >= 16)
        }
    }

    // MARK: Sleepers

    /// Whoever sleeps is woken when its operation is due, and not before; so is the receiver of a message.
    @Test(arguments: [FabricPath.automatic, .tcp])
    func sleepersAreWoken(path: FabricPath) throws {
        let model = try #require(LinkModel(latency_ns: 20_000_000, bytesPerSecond: 1_000_000_000))
        try withLab(model, path: path) { lab in
            let (left, right) = (lab.left, lab.right)
            #expect(right.postReceive([right.element(0, 8)]))
            var start = monotonicNanoseconds()
            #expect(left.post(.read, [left.element(0, 8)], to: right.remote()))
            try left.expectNext(.success)
            #expect(monotonicNanoseconds() - start >= 20_000_000)
            start = monotonicNanoseconds()
            #expect(left.post(.send, [left.element(0, 8)]))
            // Nobody polls at the sender.
            try right.expectNext(.success)
            #expect(monotonicNanoseconds() - start >= 20_000_000)
            try left.expectNext(.success)
        }
    }

    /// The device's checks, with a model of less than a poster waits for and one of more.
    @Test(arguments: ["hdr", "custom:30000:5000000000"], [FabricPath.automatic, .tcp])
    func conformance(model: String, path: FabricPath) throws {
        let model = try #require(LinkModel(model))
        var bench = Bench(
            make: { try HybridDevice(HybridDeviceConfiguration(path: path)) }, host: "127.0.0.1")
        bench.prepare = { (pair) throws(FabricError) in try pair.follow(LinkLine(model)) }
        try Checks.scatterLists(bench)
        try Checks.inlineData(bench)
        try Checks.manyOutstanding(bench)
        try Checks.thousandOutstanding(bench)
        try Checks.ordering(bench)
        try Checks.bothDirections(bench)
        try Checks.atomics(bench)
        try Checks.refusals(bench)
        try Checks.tooLongMessage(bench)
        try Checks.receiverNotReady(bench)
        try Checks.flush(bench)
        try Checks.deliveryBeforeFlush(bench)
        try Checks.smallCompletionQueue(bench)
        try Checks.deregistration(bench)
    }
}
