import Fabric
import Glibc
import Kernel
import Synchronization
import Testing

/// A peer that is killed by SIGKILL at any moment: a child process, which ends itself in the middle of its transfers.
@Suite(.serialized) struct PeerDeathTests {
    /// The parent's end: accepts one connection and keeps many transfers to the child's memory and back under way until
    /// they fail.
    private static func survive<Device: RDMADevice>(_ device: Device, link: LinkKind) throws {
        guard let request = try device.nextRequest(until: .after(labTimeout)) else { throw LabError("no request") }
        let queue = try device.makeCompletionQueue(capacity: 1024)
        let region = try device.allocate(bytes: 8 << 20, access: .all)
        let parameters = QueuePairParameters()
        let pair = try request.accept(
            send: queue, receive: queue, parameters: parameters, privateData: [UInt8](),
            prepare: { (_: Device.Pair) in })
        let side = Side(device: device, queue: queue, region: region, pair: pair)
        #expect(pair.link == link)
        // The child tells where its memory is.
        #expect(side.postReceive([side.element(0, 12)]))
        let told = try side.next(.receive)
        try #require(told.status == .success)
        let remote = (
            region.base.loadUnaligned(fromByteOffset: 8, as: UInt32.self), region.base.loadUnaligned(as: UInt64.self)
        )
        var receives = 0
        for _ in 0..<16 where side.postReceive([side.element(4096, 64)]) { receives += 1 }
        var (posted, completed, failures) = (0, 0, 0)
        while true {
            while pair.isConnected, posted - completed < 8 {
                let opcode: WorkOpcode = posted % 2 == 0 ? .write : .read
                guard side.post(opcode, [side.element(1 << 20, 4 << 20)], id: UInt64(posted), to: remote) else { break }
                posted += 1
            }
            if !pair.isConnected, posted == completed, receives == 0 { break }
            let completion = try side.next()
            if completion.kind == .send { completed += 1 } else { receives -= 1 }
            if completion.status != .success {
                failures += 1
                #expect(completion.status == .flushed || completion.status == .retryExceeded, "\(completion)")
            }
        }
        #expect(failures > 0)
        // And nothing hangs on afterwards.
        region.deregister()
        pair.disconnect()
    }

    /// The child's end.
    private static func die<Device>(_ bench: Bench<Device>, port: UInt16) throws {
        let device = try (bench.makeLeft ?? bench.make)()
        let queue = try device.makeCompletionQueue(capacity: 1024)
        let region = try device.allocate(bytes: 8 << 20, access: .all)
        let (pair, _) = try device.connect(
            to: FabricAddress(host: bench.host, port: port), send: queue, receive: queue,
            parameters: QueuePairParameters(), privateData: [UInt8](), until: .after(labTimeout),
            prepare: { (_: Device.Pair) in })
        let side = Side(device: device, queue: queue, region: region, pair: pair)
        region.base.storeBytes(of: region.remoteAddress, as: UInt64.self)
        region.base.storeBytes(of: region.remoteKey, toByteOffset: 8, as: UInt32.self)
        guard side.post(.send, [side.element(0, 12)]) else { return }
        // A few messages of its own, and the end while the parent's transfers are under way.
        for _ in 0..<8 {
            guard side.post(.send, [side.element(0, 64)]) else { break }
            _ = try side.next()
        }
        kill(getpid(), SIGKILL)
    }

    /// A child process that connects and dies.
    private static func killChild(_ kind: DeviceKind, port: UInt16) async {
        await #expect(processExitsWith: .signal(SIGKILL)) { [port = port as UInt16, name = kind.rawValue as String] in
            // Cut off from its parent it ends itself.
            alarm(60)
            let kind = try #require(DeviceKind(rawValue: name))
            try kind.run({ try Self.die($0, port: port) }, { try Self.die($0, port: port) })
        }
    }

    private static func killedPeers<Device>(_ bench: Bench<Device>, _ kind: DeviceKind, link: LinkKind) async throws {
        let device = try bench.make()
        let address = try device.listen(on: FabricAddress(host: bench.host, port: 0))
        for _ in 0..<5 {
            let outcome = Mutex<(any Error)?>(nil)
            let thread = try KernelThread(name: "survivor") {
                do { try survive(device, link: link) } catch { outcome.withLock { $0 = error } }
            }
            await killChild(kind, port: address.port)
            thread.join()
            if let error = outcome.withLock({ $0 }) { throw error }
        }
        device.close()
    }

    @Test(arguments: DeviceKind.tested)
    func killed(kind: DeviceKind) async throws {
        switch kind {
        case .sharedMemory: try await Self.killedPeers(softBench(.sharedMemory), kind, link: .sharedMemory)
        case .tcp: try await Self.killedPeers(softBench(.tcp), kind, link: .tcp)
        case .verbs:
            if try VerbsHost.isPresent() { try await Self.killedPeers(VerbsHost.bench, kind, link: .verbs) }
        }
    }
}
