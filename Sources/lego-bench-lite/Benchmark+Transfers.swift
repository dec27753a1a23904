import BenchSupport
import Fabric
import Glibc
import Kernel
import LiteClient

// Reads and writes beside the bare device's. Both copy between memory of their own and the other end's; what differs is
// that LITE's program asks a daemon to do it. From a buffer of `allocateBuffer` the bytes are copied once, as by the bare
// device; from ordinary memory twice.
extension Benchmark {
    func transfers() throws {
        let lite = try LiteSession(path: paths[0])
        let nodes = try lite.nodes()
        guard nodes.count == 2 else { throw KernelError("the nodes do not know each other", EPROTO) }
        let places = [
            (try lite.malloc(64 << 20), "own node"), (try lite.malloc(64 << 20, on: [nodes[1]]), "other node"),
        ]
        try compare(lite, places, over: .automatic, rounds: 100_000)
        lite.leave()
    }

    /// The same between two nodes that reach each other by TCP only, as on two hosts.
    func transfersOverTCP() throws {
        let paths = ["tcp0", "tcp1"].map { "\(directory)/\($0)" }
        let near = try RoleProcess(["node", paths[0], "\(128 << 20)", "tcp"])
        let address = near.readLine()
        let far = try RoleProcess(["node", paths[1], "\(128 << 20)", "tcp", address])
        defer { for process in [far, near] { process.end() } }
        _ = far.readLine()
        let lite = try LiteSession(path: paths[0])
        let nodes = try lite.nodes()
        guard nodes.count == 2 else { throw KernelError("the nodes do not know each other", EPROTO) }
        try compare(
            lite, [(try lite.malloc(64 << 20, on: [nodes[1]]), "other node over TCP")], over: .tcp, rounds: 5000)
        lite.leave()
    }

    /// LITE's reads and writes of regions, and the bare device's, of all sizes. `rounds`: of the small ones.
    private func compare(
        _ lite: LiteSession, _ places: [(LiteRegion, String)], over transport: SoftDeviceConfiguration.Transport,
        rounds most: Int
    ) throws {
        let other = try RoleProcess(transport == .tcp ? ["bare", "tcp"] : ["bare"])
        defer { other.end() }
        guard let peer = FabricAddress(other.readLine()) else { throw KernelError("no bare device", EPROTO) }
        let device = try SoftDevice(configuration: SoftDeviceConfiguration(transport: transport))
        defer { device.close() }
        let bare = try BarePair(device, peer, bytes: 1 << 20)
        let via = transport == .tcp ? " over TCP" : ""
        let ordinary = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
        defer { ordinary.deallocate() }
        let memories = [(try lite.allocateBuffer(1 << 20), "buffer"), (ordinary, "ordinary memory")]
        for (memory, _) in memories { memory.initializeMemory(as: UInt8.self, repeating: 1) }
        for bytes in Self.sizes {
            for opcode in [WorkOpcode.read, .write] {
                let rounds = bytes > 65536 ? most / 50 : bytes > 4096 ? most / 5 : most
                let base = measure(rounds) { bare.transfer(opcode, bytes, local: 0, remote: Self.place($0, bytes)) }
                report("\(opcode), bare device\(via)", bytes, base, "us")
                let baseRate = rate(bare, opcode, bytes, rounds)
                report("\(opcode), several under way, bare device\(via)", bytes, baseRate / 1e6, "M/s")
                for (region, place) in places {
                    for (memory, kind) in memories {
                        let part = UnsafeMutableRawBufferPointer(rebasing: memory[..<bytes])
                        let figure = "\(opcode), \(place), \(kind)"
                        let mine = measure(rounds) { move(lite, opcode, region, Self.place($0, bytes), part) }
                        report("\(figure), LITE", bytes, mine, "us")
                        report("\(figure), LITE - bare", bytes, mine - base, "us")
                        let mineRate = rate(lite, opcode, region, memory, bytes, rounds)
                        report("\(figure), several under way, LITE", bytes, mineRate / 1e6, "M/s")
                        report("\(figure), several under way, LITE / bare", bytes, mineRate / baseRate * 100, "%")
                    }
                }
            }
        }
    }

    private func move(
        _ lite: LiteSession, _ opcode: WorkOpcode, _ region: LiteRegion, _ offset: Int,
        _ part: UnsafeMutableRawBufferPointer
    ) {
        check {
            () throws(LiteFailure) in
            if opcode == .read {
                try lite.read(region, at: UInt64(offset), into: part)
            } else {
                try lite.write(region, at: UInt64(offset), from: UnsafeRawBufferPointer(part))
            }
        }
    }

    /// Operations that are under way at a time.
    private static func window(_ bytes: Int) -> Int { bytes > 65536 ? 4 : 16 }
    /// Each operation has its part of local memory, as far as there is one.
    private static func local(_ index: Int, _ bytes: Int) -> Int { index * bytes % (1 << 20) }

    /// The best of three: operations a second.
    private func best(_ count: Int, _ body: () -> Void) -> Double {
        var best = 0.0
        for _ in 0..<3 {
            let start = monotonicNanoseconds()
            body()
            best = max(best, Double(count) / Double(monotonicNanoseconds() - start) * 1e9)
        }
        return best
    }

    private func rate(_ bare: BarePair, _ opcode: WorkOpcode, _ bytes: Int, _ count: Int) -> Double {
        let window = Self.window(bytes)
        return best(count) {
            withUnsafeTemporaryAllocation(of: WorkCompletion.self, capacity: window) { completions in
                var posted = 0
                var done = 0
                while done < count {
                    while posted < count, posted - done < window,
                        bare.post(
                            opcode, bytes, local: Self.local(posted % window, bytes),
                            remote: Self.place(posted, bytes))
                    { posted += 1 }
                    done += bare.queue.poll(into: completions)
                }
            }
        }
    }

    private func rate(
        _ lite: LiteSession, _ opcode: WorkOpcode, _ region: LiteRegion, _ memory: UnsafeMutableRawBufferPointer,
        _ bytes: Int, _ count: Int
    ) -> Double {
        let window = Self.window(bytes)
        return best(count) {
            var operations: [LiteOperation] = []
            operations.reserveCapacity(window)
            for round in 0..<count {
                let start = Self.local(round % window, bytes)
                let part = UnsafeMutableRawBufferPointer(rebasing: memory[start..<start + bytes])
                let offset = UInt64(Self.place(round, bytes))
                check {
                    () throws(LiteFailure) in
                    if operations.count == window { try lite.wait(operations[round % window]) }
                    let operation =
                        opcode == .read
                        ? try lite.beginRead(region, at: offset, into: part)
                        : try lite.beginWrite(region, at: offset, from: UnsafeRawBufferPointer(part))
                    if operations.count < window {
                        operations.append(operation)
                    } else {
                        operations[round % window] = operation
                    }
                }
            }
            for operation in operations { check { () throws(LiteFailure) in try lite.wait(operation) } }
        }
    }
}
