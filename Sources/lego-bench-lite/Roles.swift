import BenchSupport
import CLinux
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
}

/// A node's daemon: `node SOCKET BYTES PATH [PEER]`. Says its address.
enum NodeRole {
    static func run(_ arguments: [String]) throws {
        let name = arguments[1].split(separator: "/").last.map(String.init) ?? "node"
        guard lego_raise_descriptor_limit() >= 0, let arena = UInt64(arguments[2]),
            let path = FabricPath(rawValue: arguments[3])
        else {
            throw KernelError("a node's arguments", EINVAL)
        }
        var configuration = LiteServiceConfiguration(name: name, socketPath: arguments[1], arenaBytes: arena)
        configuration.peers = arguments.dropFirst(4).compactMap { FabricAddress($0) }
        var lite = LiteConfiguration(
            name: name, listen: FabricAddress(host: Bench.host, port: 0), poolBytes: Int(arena))
        lite.messageBytes_max = LiteService.messageBytes
        lite.queuePairsPerPeer = 4
        // Where the host keeps some (vm.nr_hugepages).
        var device = HybridDeviceConfiguration(path: path)
        device.hugePages = .automatic
        let node = try RackNode(device: RackDevice(device), configuration: lite)
        let service = try LiteService(
            node: node, configuration: configuration, logger: Logger(label: name) { _ in SwiftLogNoOpLogHandler() })
        try node.start()
        try service.start()
        let deadline = Deadline.after(.seconds(10))
        while service.memberCount < configuration.peers.count, !deadline.hasPassed { usleep(1000) }
        Role.say("\(node.address)")
        Role.awaitEnd()
        service.stop()
        node.close()
    }
}

/// A program that answers what it is asked: `echo SOCKET`.
enum EchoRole {
    static func run(_ arguments: [String]) throws {
        let lite = try LiteSession(path: arguments[1])
        try lite.register(Bench.echo, bytes_max: Bench.messageBytes_max, depth: 16)
        Role.say("ready")
        // Ends with the process.
        _ = try KernelThread(name: "echo") {
            let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: Bench.messageBytes_max, alignment: 64)
            do throws(LiteFailure) {
                var request = try lite.receive(Bench.echo, into: buffer, until: .never)
                while true {
                    request = try lite.reply(
                        request.call, UnsafeRawBufferPointer(rebasing: buffer[..<request.count]), receiving: Bench.echo,
                        into: buffer, until: .never)
                }
            } catch {
                // The program has left.
            }
        }
        Role.awaitEnd()
        _exit(0)
    }
}

/// A program of low priority that writes to memory of a node, so many times a second or (0) without pause:
/// `writer SOCKET NODE RATE NICE`.
enum WriterRole {
    static func run(_ arguments: [String]) throws {
        guard arguments.count == 5, let node = UInt64(arguments[2]), let rate = UInt64(arguments[3]),
            let niceness = Int32(arguments[4])
        else {
            throw KernelError("a writer's arguments", EINVAL)
        }
        // Also from a niceness of less than 0.
        if niceness > 0 { setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, niceness) }
        var options = LiteSession.Options()
        options.priority = .low
        let lite = try LiteSession(path: arguments[1], options: options)
        let region = try lite.malloc(1 << 20, on: [node])
        Role.say("ready")
        // Ends with the process.
        _ = try KernelThread(name: "writer") {
            let bytes = [UInt8](repeating: 1, count: 64)
            let start = monotonicNanoseconds()
            var done: UInt64 = 0
            while true {
                let isOver = bytes.withUnsafeBytes { buffer -> Bool in
                    do throws(LiteFailure) {
                        try lite.write(region, at: 0, from: buffer)
                        return false
                    } catch { return true }
                }
                if isOver { return }
                done += 1
                if rate > 0 { sleep(until: start + done * 1_000_000_000 / rate) }
            }
        }
        Role.awaitEnd()
        _exit(0)
    }

    private static func sleep(until moment_ns: UInt64) {
        let now = monotonicNanoseconds()
        if moment_ns <= now { return }
        var span = timespec(tv_sec: 0, tv_nsec: Int(min(moment_ns - now, 999_999_999)))
        nanosleep(&span, nil)
    }
}

/// A program that joins, writes once, and waits: `idle SOCKET`.
enum IdleRole {
    static func run(_ arguments: [String]) throws {
        let lite = try LiteSession(path: arguments[1])
        let region = try lite.malloc(64)
        let bytes = [UInt8](repeating: 1, count: 64)
        try bytes.withUnsafeBytes { try lite.write(region, at: 0, from: $0) }
        Role.say("ready")
        Role.awaitEnd()
        lite.leave()
    }
}
