import Fabric
import Glibc
import Kernel
import Wire

/// The other end of a bare device's connection: memory, and nothing that looks at it.
public enum BareServer {
    /// Says its address, takes one connection over the transport, and ends with the process that started this one.
    public static func run(bytes: Int, transport: SoftDeviceConfiguration.Transport = .automatic) throws {
        let device = try SoftDevice(configuration: SoftDeviceConfiguration(transport: transport))
        let region = try device.allocate(bytes: bytes, access: .all)
        let queue = try device.makeCompletionQueue(capacity: 1024)
        let address = try device.listen(on: FabricAddress(host: "127.0.0.1", port: 0))
        Role.say("\(address)")
        guard let request = try device.nextRequest(until: .after(.seconds(30))) else { return }
        var key = [UInt8](repeating: 0, count: 12)
        key.withUnsafeMutableBytes { buffer in
            var writer = WireWriter(buffer)
            writer.write(region.remoteKey)
            writer.write(region.remoteAddress)
        }
        let pair = try request.accept(
            send: queue, receive: queue, parameters: QueuePairParameters(), privateData: key,
            prepare: { (_) throws(FabricError) in })
        Role.awaitEnd()
        pair.disconnect()
        device.close()
    }
}

/// A queue pair of a bare device, connected to a `BareServer`. One thread uses it.
public struct BarePair {
    public let region: SoftRegion
    public let queue: SoftCompletionQueue
    public let pair: SoftQueuePair
    private let key: UInt32
    private let address: UInt64

    /// `bytes`: of local memory.
    public init(_ device: SoftDevice, _ peer: FabricAddress, bytes: Int) throws {
        region = try device.allocate(bytes: bytes, access: [])
        queue = try device.makeCompletionQueue(capacity: 1024)
        let (pair, data) = try device.connect(
            to: peer, send: queue, receive: queue, parameters: QueuePairParameters(), privateData: [],
            until: .after(.seconds(20)), prepare: { (_) throws(FabricError) in })
        self.pair = pair
        var key: UInt32 = 0
        var address: UInt64 = 0
        data.withUnsafeBytes { bytes in
            var reader = WireReader(bytes)
            key = reader.read()
            address = reader.read()
        }
        self.key = key
        self.address = address
    }

    /// Posts one READ or WRITE of `bytes` between the two offsets; false when the send queue is full.
    @inline(__always)
    public func post(_ opcode: WorkOpcode, _ bytes: Int, local: Int, remote: Int) -> Bool {
        withUnsafeTemporaryAllocation(of: ScatterElement.self, capacity: 1) { elements in
            elements[0] = ScatterElement(address: region.base + local, count: bytes, localKey: region.localKey)
            var work = WorkRequest(opcode, local: UnsafeBufferPointer(elements))
            work.remoteAddress = address &+ UInt64(remote)
            work.remoteKey = key
            return pair.postSend(work)
        }
    }

    /// One READ or WRITE from post to completion, by polling.
    public func transfer(_ opcode: WorkOpcode, _ bytes: Int, local: Int, remote: Int) {
        _ = post(opcode, bytes, local: local, remote: remote)
        withUnsafeTemporaryAllocation(of: WorkCompletion.self, capacity: 1) { completions in
            while queue.poll(into: completions) == 0 {}
        }
    }
}
