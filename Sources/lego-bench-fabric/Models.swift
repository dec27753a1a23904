import BenchSupport
import Fabric
import Glibc
import Kernel
import Lite
import Wire

/// How near link models come to what they say: READs over a link with each preset, by polling.
enum ModelBench {
    private static let sizes = [1 << 20]

    static func run() throws {
        let server = try RoleProcess(["nodes"])
        defer { server.end() }
        guard let address = server.readLine().split(separator: " ").first.flatMap({ FabricAddress(String($0)) }) else {
            throw KernelError("the server process gave no address", EPROTO)
        }
        let node = try Bench.node("bmodel", spin: .milliseconds(1))
        defer { node.close() }
        let peer = try node.connect(to: address, until: .after(.seconds(20)))
        var floor = 0.0
        for model in [nil] + LinkModel.presets.map({ Optional($0.model) }) {
            try node.setLinkModel(model, for: peer)
            let (status, measured) = node.measure(peer, sizes: sizes, until: .after(.seconds(20)))
            guard status.isOK, let measured else { throw KernelError("a measurement failed: \(status)", EIO) }
            let latency = Double(measured.latency_ns) / 1000
            let bandwidth = Double(measured.bytesPerSecond[0]) / 1e9
            guard let model else {
                floor = bandwidth
                Role.say("no model: \(fixed(latency)) us, \(fixed(bandwidth)) GB/s")
                continue
            }
            let wanted = Double(model.latency_ns) / 1000 + 64 * 1e6 / Double(model.bytesPerSecond)
            let rate = Double(model.bytesPerSecond) / 1e9
            let note = rate > floor ? " (more than this machine copies)" : ""
            Role.say(
                "\(model): \(fixed(latency)) us, error \(fixed(latency - wanted)) us; \(fixed(bandwidth)) GB/s, error "
                    + "\(fixed((bandwidth / rate - 1) * 100)) %\(note)")
        }
    }
}
