import Fabric
import Glibc
import Kernel
import Lite
import Wire

enum Bench {
    static let poolBytes = 64 << 20
    static let echo = FunctionID(rawValue: 0x7f01)
    static let echoOnWorker = FunctionID(rawValue: 0x7f02)
    static let host = "127.0.0.1"

    static func node(_ name: String, spin: Duration) throws -> RackNode {
        var configuration = LiteConfiguration(
            name: name, listen: FabricAddress(host: host, port: 0), poolBytes: poolBytes)
        configuration.spin = spin
        let node = try RackNode(device: RackDevice(), configuration: configuration)
        for (function, thread) in [(echo, HandlerThread.poller), (echoOnWorker, .worker)] {
            node.register(function, requestBytes_max: 65536, responseBytes_max: 65536, on: thread) {
                _, request, response in
                response.copyMemory(from: request)
                return CallResult(status: .ok, count: request.count)
            }
        }
        try node.start()
        return node
    }
}

/// The other process: a node that spins, one that does not, and a bare device. Ends when its standard input does.
enum BenchServer {
    static func run() throws {
        let spinning = try Bench.node("spin", spin: .microseconds(20))
        let sleeping = try Bench.node("sleep", spin: .zero)
        let device = try SoftDevice()
        let region = try device.allocate(bytes: Bench.poolBytes, access: .all)
        let queue = try device.makeCompletionQueue(capacity: 1024)
        let address = try device.listen(on: FabricAddress(host: Bench.host, port: 0))
        print(spinning.address, sleeping.address, address)
        fflush(nil)
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
        while getchar() != EOF {}
        pair.disconnect()
        spinning.close()
        sleeping.close()
        device.close()
    }
}
