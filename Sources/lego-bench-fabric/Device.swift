import BenchSupport
import Fabric
import Glibc
import Kernel

/// The bare device, for comparison with others of its kind: lines `PATH,OPERATION,BYTES,VALUE,UNIT`. All sides poll.
enum DeviceBench {
    private static let sizes = [8, 64, 4096, 64 << 10, 1 << 20]
    private static let memoryBytes = 64 << 20

    /// `only`: one transport, or both where it is nil.
    static func run(only: SoftDeviceConfiguration.Transport?) throws {
        copies()
        for transport in [SoftDeviceConfiguration.Transport.sharedMemory, .tcp] where only == nil || only == transport {
            try transfers(transport)
            try messages(transport)
        }
    }

    /// Operations between two looks at the clock: its own time must not count where an operation takes as little.
    private static func batch(_ bytes: Int, _ transport: SoftDeviceConfiguration.Transport) -> Int {
        transport == .tcp || bytes > 4096 ? 1 : 16
    }

    private static func say(_ path: String, _ operation: String, _ bytes: Int, _ value: Double, _ unit: String) {
        Role.say("\(path),\(operation),\(bytes),\(fixed(value, decimals: 3)),\(unit)")
    }

    /// Walks through memory, so that pages are not all in the first-level cache; the same for every measurement.
    private static func place(_ round: Int, _ bytes: Int) -> Int {
        (round &* 8 % 1024) * 4096 % (memoryBytes - bytes)
    }

    private static func rounds(_ bytes: Int, _ transport: SoftDeviceConfiguration.Transport) -> Int {
        let many = bytes > 65536 ? 2000 : bytes > 4096 ? 20_000 : 100_000
        return transport == .tcp ? min(many / 4, 10_000) : many
    }

    /// What moving the bytes costs with nothing around it.
    private static func copies() {
        func memory() -> UnsafeMutableRawPointer {
            let memory = UnsafeMutableRawPointer.allocate(byteCount: memoryBytes, alignment: 4096)
            memset(memory, 1, memoryBytes)
            return memory
        }
        let (from, to) = (memory(), memory())
        defer {
            from.deallocate()
            to.deallocate()
        }
        for bytes in sizes {
            let took = Latencies(rounds: rounds(bytes, .sharedMemory), batch: batch(bytes, .sharedMemory)) { round in
                let offset = place(round, bytes)
                memcpy(to + offset, from + offset, bytes)
            }
            say("memcpy", "copy", bytes, took.median, "us")
        }
    }

    private static func transfers(_ transport: SoftDeviceConfiguration.Transport) throws {
        let server = try RoleProcess(["bare", transport.rawValue])
        defer { server.end() }
        guard let address = FabricAddress(server.readLine()) else { throw KernelError("no address", EPROTO) }
        let device = try SoftDevice(configuration: SoftDeviceConfiguration(transport: transport))
        defer { device.close() }
        let bare = try BarePair(device, address, bytes: memoryBytes)
        for bytes in sizes {
            for opcode in [WorkOpcode.read, .write] {
                let took = Latencies(rounds: rounds(bytes, transport), batch: batch(bytes, transport)) { round in
                    let offset = place(round, bytes)
                    bare.transfer(opcode, bytes, local: offset, remote: offset)
                }
                say(transport.rawValue, "\(opcode)", bytes, took.median, "us")
            }
            // As others measure it: always the same bytes.
            let took = Latencies(rounds: rounds(bytes, transport), batch: batch(bytes, transport)) { _ in
                bare.transfer(.read, bytes, local: 0, remote: 0)
            }
            say(transport.rawValue, "read of one place", bytes, took.median, "us")
        }
        bare.pair.disconnect()
    }

    private static func messages(_ transport: SoftDeviceConfiguration.Transport) throws {
        for role in ["echo", "sink"] {
            let server = try RoleProcess([role, transport.rawValue])
            defer { server.end() }
            guard let address = FabricAddress(server.readLine()) else { throw KernelError("no address", EPROTO) }
            let device = try SoftDevice(configuration: SoftDeviceConfiguration(transport: transport))
            defer { device.close() }
            let end = try MessageEnd(device, address)
            for bytes in sizes where bytes <= MessageEnd.bytes_max {
                let rounds = rounds(bytes, transport)
                if role == "echo" {
                    let took = Latencies(rounds: rounds, batch: batch(bytes, transport)) { _ in
                        end.send(bytes)
                        _ = end.next()
                    }
                    // One way, as others count.
                    say(transport.rawValue, "message", bytes, took.median / 2, "us")
                } else {
                    for _ in 0..<rounds / 10 { end.send(bytes) }
                    let start = monotonicNanoseconds()
                    for _ in 0..<rounds { end.send(bytes) }
                    end.settle()
                    let rate = Double(rounds) / Double(monotonicNanoseconds() - start) * 1000
                    say(transport.rawValue, "message rate", bytes, rate, "M/s")
                }
            }
            end.close()
        }
    }
}
