import Fabric
import Glibc
import Kernel
import Lite
import LiteClient
import LiteService
import Logging
import Wire

// The other processes. Each says a line when it is ready, and ends when its standard input does.

enum Bench {
    static let echo: UInt16 = 1
    static let messageBytes_max = 1 << 20
    static let arenaBytes: UInt64 = 256 << 20
    static let host = "127.0.0.1"

    static func say(_ text: String) {
        print(text)
        fflush(nil)
    }

    static func awaitEnd() { while getchar() != EOF {} }
}

/// A node's daemon: `node SOCKET [PEER]`. Says its address.
enum NodeRole {
    static func run(_ arguments: [String]) throws {
        let name = arguments[1].split(separator: "/").last.map(String.init) ?? "node"
        var configuration = LiteServiceConfiguration(name: name, socketPath: arguments[1], arenaBytes: Bench.arenaBytes)
        configuration.peers = arguments.dropFirst(2).compactMap { FabricAddress($0) }
        let staging = LiteServiceConfiguration.stagingBytes(threads: configuration.threads)
        var lite = LiteConfiguration(
            name: name, listen: FabricAddress(host: Bench.host, port: 0), poolBytes: Int(Bench.arenaBytes) + staging)
        lite.messageBytes_max = LiteService.messageBytes
        lite.queuePairsPerPeer = 4
        let node = try RackNode(device: RackDevice(), configuration: lite)
        let service = try LiteService(
            node: node, configuration: configuration, logger: Logger(label: name) { _ in SwiftLogNoOpLogHandler() })
        try node.start()
        try service.start()
        let deadline = Deadline.after(.seconds(10))
        while service.memberCount < configuration.peers.count, !deadline.hasPassed { usleep(1000) }
        Bench.say("\(node.address)")
        Bench.awaitEnd()
        service.stop()
        node.close()
    }
}

/// A program that answers what it is asked: `echo SOCKET`.
enum EchoRole {
    static func run(_ arguments: [String]) throws {
        let lite = try LiteSession(path: arguments[1])
        try lite.register(Bench.echo, bytes_max: Bench.messageBytes_max, depth: 16)
        Bench.say("ready")
        // Ends with the process.
        _ = try KernelThread(name: "echo") {
            let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: Bench.messageBytes_max, alignment: 64)
            do throws(LiteFailure) {
                while true {
                    let request = try lite.receive(Bench.echo, into: buffer, until: .never)
                    try lite.reply(request.call, UnsafeRawBufferPointer(rebasing: buffer[..<request.count]))
                }
            } catch {
                // The program has left.
            }
        }
        Bench.awaitEnd()
        _exit(0)
    }
}

/// A program of low priority that writes without pause: `writer SOCKET`.
enum WriterRole {
    static func run(_ arguments: [String]) throws {
        var options = LiteSession.Options()
        options.priority = .low
        let lite = try LiteSession(path: arguments[1], options: options)
        let region = try lite.malloc(1 << 20)
        Bench.say("ready")
        // Ends with the process.
        _ = try KernelThread(name: "writer") {
            let bytes = [UInt8](repeating: 1, count: 64)
            while true {
                let isOver = bytes.withUnsafeBytes { buffer -> Bool in
                    do throws(LiteFailure) {
                        try lite.write(region, at: 0, from: buffer)
                        return false
                    } catch { return true }
                }
                if isOver { return }
            }
        }
        Bench.awaitEnd()
        _exit(0)
    }
}

/// A bare device's other end. Says its address, and takes one connection.
enum BareRole {
    static func run() throws {
        let device = try SoftDevice()
        let region = try device.allocate(bytes: Int(Bench.arenaBytes), access: .all)
        let queue = try device.makeCompletionQueue(capacity: 1024)
        let address = try device.listen(on: FabricAddress(host: Bench.host, port: 0))
        Bench.say("\(address)")
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
        Bench.awaitEnd()
        pair.disconnect()
        device.close()
    }
}
