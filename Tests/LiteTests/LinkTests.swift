import Fabric
import Kernel
import Synchronization
import Testing
import Wire

@testable import Lite

/// What a node says of its links, and what it makes of their models.
@Suite(.serialized) struct LinkTests {
    private func node(_ name: String, _ model: @escaping @Sendable (NodeID) -> LinkModel? = { _ in nil }) throws
        -> RackNode
    {
        var configuration = LiteConfiguration(
            name: name, listen: FabricAddress(host: "127.0.0.1", port: 0), poolBytes: 1 << 20)
        configuration.linkModel = model
        let node = try RackNode(device: RackDevice(), configuration: configuration)
        try node.start()
        return node
    }

    private func read(_ node: RackNode, _ peer: LitePeer, _ bytes: Int) -> Status {
        let piece = Transfer(local: node.pool.baseAddress!, remoteOffset: 0, count: bytes)
        return withUnsafePointer(to: piece) {
            node.read(peer, UnsafeBufferPointer(start: $0, count: 1), until: .after(.seconds(20)))
        }
    }

    @Test func linksAndTheirModels() throws {
        let slow = try #require(LinkModel("custom:5000000:1000000000"))
        let left = try node("left")
        defer { left.close() }
        // The acceptor's link has a model from its beginning.
        let right = try node("right") { _ in slow }
        defer { right.close() }
        let peer = try left.connect(to: right.address, until: .after(.seconds(20)))
        #expect(read(left, peer, 4096) == .ok)
        let link = try #require(left.links.first)
        #expect(left.links.count == 1 && link.peer == right.id && link.kind == .sharedMemory && link.isInitiator)
        #expect(link.reason == "same host" && link.queuePairs == 2 && link.model == nil)
        #expect(link.traffic.bytesIn == 4096 && link.traffic.requests > 0)
        let other = try #require(right.links.first)
        #expect(!other.isInitiator && other.model == slow)
        let back = try #require(right.peer(left.id))
        var start = monotonicNanoseconds()
        #expect(read(right, back, 64) == .ok)
        #expect(monotonicNanoseconds() - start >= 5_000_000)

        #expect(left.beginAccess(peer, remoteOffset: 0, count: 8, .read) != nil)
        left.endAccess(peer)
        try left.setLinkModel(slow, for: peer)
        #expect(left.links.first?.model == slow)
        #expect(left.beginAccess(peer, remoteOffset: 0, count: 8, .read) == nil)
        start = monotonicNanoseconds()
        #expect(read(left, peer, 64) == .ok)
        #expect(monotonicNanoseconds() - start >= 5_000_000)
        try left.setLinkModel(nil, for: peer)
        try right.setLinkModel(nil, for: back)
        #expect(left.links.first?.model == nil)

        let (status, measured) = left.measure(peer, sizes: [64 << 10, 2 << 20], until: .after(.seconds(20)))
        #expect(status == .ok)
        let result = try #require(measured)
        #expect(result.latency_ns > 0 && result.bytesPerSecond.count == 2 && result.bytesPerSecond[0] > 0)
        #expect(result.bytesPerSecond[1] == 0, "the peer's pool is smaller")

        left.disconnect(peer)
        #expect(left.links.isEmpty)
        #expect(throws: LiteError.self) { try left.setLinkModel(slow, for: peer) }
        #expect(left.measure(peer, sizes: [4096], until: .after(.seconds(1))).0 == .peerLost)
    }

    /// Measured as set: not less than the model says, several operations under way at a time or one.
    @Test(arguments: ["hdr", "custom:20000:1000000000"])
    func measuringUnderAModel(text: String) throws {
        let model = try #require(LinkModel(text))
        let left = try node("left") { _ in model }
        defer { left.close() }
        let right = try node("right")
        defer { right.close() }
        let peer = try left.connect(to: right.address, until: .after(.seconds(20)))
        let (status, measured) = left.measure(peer, sizes: [64 << 10, 1 << 20], until: .after(.seconds(30)))
        #expect(status == .ok)
        let result = try #require(measured)
        #expect(result.latency_ns >= model.latency_ns)
        for bandwidth in result.bytesPerSecond { #expect((1...model.bytesPerSecond).contains(bandwidth)) }
    }

    /// Calls and transfers of many threads under a model: all answered, as without.
    @Test func callsUnderAModel() throws {
        let model = try #require(LinkModel("custom:40000:1000000000"))
        let echo = FunctionID(rawValue: 0x7f01)
        var configuration = LiteConfiguration(
            name: "echo", listen: FabricAddress(host: "127.0.0.1", port: 0), poolBytes: 1 << 20)
        configuration.linkModel = { _ in model }
        let server = try RackNode(device: RackDevice(), configuration: configuration)
        server.register(echo, requestBytes_max: 1024, responseBytes_max: 1024, on: .worker) { _, request, response in
            response.copyMemory(from: request)
            return CallResult(status: .ok, count: request.count)
        }
        try server.start()
        defer { server.close() }
        let client = try node("client") { _ in model }
        defer { client.close() }
        let peer = try client.connect(to: server.address, until: .after(.seconds(20)))
        let failures = Atomic<Int>(0)
        let threads = try (0..<4).map { number in
            try KernelThread(name: "caller\(number)") {
                var request = [UInt8](repeating: UInt8(number), count: 200)
                var response = [UInt8](repeating: 0, count: 1024)
                for round in 0..<300 {
                    request[0] = UInt8(round & 255)
                    let result = request.withUnsafeBytes { request in
                        response.withUnsafeMutableBytes {
                            client.call(peer, echo, request: request, response: $0, until: .after(.seconds(20)))
                        }
                    }
                    if result.status != .ok || !response.starts(with: request) {
                        failures.add(1, ordering: .relaxed)
                    }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(failures.load(ordering: .relaxed) == 0)
    }
}
