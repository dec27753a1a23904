import BenchSupport
import Fabric
import Glibc
import Kernel
import Lite
import Wire

enum BenchClient {
    private static let rounds = 200_000

    static func run() throws {
        let server = try RoleProcess(["nodes"])
        let bareServer = try RoleProcess(["bare"])
        let addresses = [server, bareServer].flatMap { process in
            process.readLine().split(separator: " ").compactMap { FabricAddress(String($0)) }
        }
        guard addresses.count == 3 else { throw KernelError("the server process gave no addresses", EPROTO) }
        let deadline = Deadline.after(.seconds(20))
        let spinning = try Bench.node("bspin", spin: .microseconds(20))
        let sleeping = try Bench.node("bsleep", spin: .zero)
        let spinPeer = try spinning.connect(to: addresses[0], until: deadline)
        let sleepPeer = try sleeping.connect(to: addresses[1], until: deadline)
        let device = try SoftDevice()
        let bare = try BarePair(device, addresses[2], bytes: Bench.poolBytes)
        for bytes in [64, 4096] {
            call("call \(bytes) B, spinning, handler on the poller", spinning, spinPeer, Bench.echo, bytes, rounds)
            call(
                "call \(bytes) B, spinning, handler on a worker", spinning, spinPeer, Bench.echoOnWorker, bytes,
                rounds / 5)
            call("call \(bytes) B, sleeping, handler on the poller", sleeping, sleepPeer, Bench.echo, bytes, rounds / 5)
        }
        for bytes in [64, 4096, 65536] {
            let count = bytes > 4096 ? rounds / 10 : rounds
            for opcode in [WorkOpcode.read, .write] {
                let bareName = "\(opcode) \(bytes) B, bare device"
                let base = measure(bareName, count) { round in
                    bare.transfer(opcode, bytes, local: place(round, bytes), remote: place(round, bytes))
                }
                let name = "\(opcode) \(bytes) B, Lite"
                let mine = measure(name, count) { transfer(spinning, spinPeer, opcode, bytes, place($0, bytes), 1) }
                print(name, "/ bare device:", fixed(mine / base), " difference:", fixed(mine - base), "us")
            }
        }
        _ = measure("write of 16 pages, Lite", rounds / 10) {
            transfer(spinning, spinPeer, .write, 4096, place($0, 1 << 20), 16)
        }
        bare.pair.disconnect()
        spinning.close()
        sleeping.close()
        device.close()
        bareServer.end()
        server.end()
    }

    // MARK: Measurements

    /// Walks through memory, so that pages are not all in the first-level cache; the same for every measurement.
    private static func place(_ round: Int, _ bytes: Int) -> Int {
        (round &* 8 % 1024) * 4096 % (Bench.poolBytes - bytes)
    }

    private static func transfer(
        _ node: RackNode, _ peer: LitePeer, _ opcode: WorkOpcode, _ bytes: Int, _ offset: Int, _ pieces: Int
    ) {
        withUnsafeTemporaryAllocation(of: Transfer.self, capacity: pieces) { list in
            for index in 0..<pieces {
                let at = offset + index * bytes
                list[index] = Transfer(local: node.pool.baseAddress! + at, remoteOffset: UInt64(at), count: bytes)
            }
            let batch = UnsafeBufferPointer(list)
            let status =
                opcode == .read ? node.read(peer, batch, until: .never) : node.write(peer, batch, until: .never)
            if status != .ok { print("\(opcode) failed: \(status)") }
        }
    }

    private static func call(
        _ name: String, _ node: RackNode, _ peer: LitePeer, _ function: FunctionID, _ bytes: Int, _ count: Int
    ) {
        withUnsafeTemporaryAllocation(byteCount: 2 * bytes, alignment: 16) { buffer in
            buffer.initializeMemory(as: UInt8.self, repeating: 7)
            let request = UnsafeRawBufferPointer(rebasing: buffer[..<bytes])
            let response = UnsafeMutableRawBufferPointer(rebasing: buffer[bytes...])
            _ = measure(name, count) { _ in
                let result = node.call(peer, function, request: request, response: response, until: .never)
                if result.status != .ok { print("call failed: \(result.status)") }
            }
        }
    }

    /// Runs `body` one after the other; prints median, 99th percentile and mean, and answers the median, in microseconds.
    private static func measure(_ name: String, _ count: Int, _ body: (Int) -> Void) -> Double {
        let took = Latencies(rounds: count, body)
        Role.say(
            "\(name): median \(fixed(took.median)) us, 99 % \(fixed(took.tail)) us, mean \(fixed(took.mean)) us")
        return took.median
    }
}
