import Fabric
import Glibc
import Kernel
import Synchronization
import Testing

/// A peer that is killed by SIGKILL at any moment: a child process, which ends itself in the middle of its transfers.
@Suite(.serialized) struct PeerDeathTests {
    /// The parent's end: accepts one connection and keeps many transfers to the child's memory and back under way until
    /// they fail.
    private static func survive(_ device: SoftDevice, link: LinkKind) throws {
        guard let request = try device.nextRequest(until: .after(labTimeout)) else { throw LabError("no request") }
        let queue = try device.makeCompletionQueue(capacity: 1024)
        let region = try device.allocate(bytes: 8 << 20, access: .all)
        let parameters = QueuePairParameters()
        let pair = try request.accept(
            send: queue, receive: queue, parameters: parameters, privateData: [UInt8](),
            prepare: { (_: SoftQueuePair) in })
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
    private static func die(port: UInt16, transport: SoftDeviceConfiguration.Transport) throws {
        let device = try SoftDevice(configuration: SoftDeviceConfiguration(transport: transport))
        let queue = try device.makeCompletionQueue(capacity: 1024)
        let region = try device.allocate(bytes: 8 << 20, access: .all)
        let (pair, _) = try device.connect(
            to: FabricAddress(host: "127.0.0.1", port: port), send: queue, receive: queue,
            parameters: QueuePairParameters(), privateData: [UInt8](), until: .after(labTimeout),
            prepare: { (_: SoftQueuePair) in })
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

    /// A child that is cut off from its parent ends itself.
    private static func armDeadline() { alarm(60) }

    @Test func killedOverSharedMemory() async throws {
        let device = try SoftDevice(configuration: SoftDeviceConfiguration(transport: .sharedMemory))
        let address = try device.listen(on: FabricAddress(host: "127.0.0.1", port: 0))
        let port = address.port
        for _ in 0..<5 {
            let outcome = Mutex<(any Error)?>(nil)
            let thread = try KernelThread(name: "survivor") {
                do { try Self.survive(device, link: .sharedMemory) } catch { outcome.withLock { $0 = error } }
            }
            await #expect(processExitsWith: .signal(SIGKILL)) { [port = port as UInt16] in
                Self.armDeadline()
                try Self.die(port: port, transport: .sharedMemory)
            }
            thread.join()
            if let error = outcome.withLock({ $0 }) { throw error }
        }
        device.close()
    }

    @Test func killedOverTCP() async throws {
        let device = try SoftDevice(configuration: SoftDeviceConfiguration(transport: .tcp))
        let address = try device.listen(on: FabricAddress(host: "127.0.0.1", port: 0))
        let port = address.port
        for _ in 0..<5 {
            let outcome = Mutex<(any Error)?>(nil)
            let thread = try KernelThread(name: "survivor") {
                do { try Self.survive(device, link: .tcp) } catch { outcome.withLock { $0 = error } }
            }
            await #expect(processExitsWith: .signal(SIGKILL)) { [port = port as UInt16] in
                Self.armDeadline()
                try Self.die(port: port, transport: .tcp)
            }
            thread.join()
            if let error = outcome.withLock({ $0 }) { throw error }
        }
        device.close()
    }
}
