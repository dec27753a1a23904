import BenchSupport
import Fabric
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

/// The nodes of the other process: one that spins, and one that does not. Says their addresses.
enum NodesRole {
    static func run() throws {
        let spinning = try Bench.node("spin", spin: .microseconds(20))
        let sleeping = try Bench.node("sleep", spin: .zero)
        Role.say("\(spinning.address) \(sleeping.address)")
        Role.awaitEnd()
        spinning.close()
        sleeping.close()
    }
}
