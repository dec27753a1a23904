import Fabric
import Glibc
import Kernel
import LiteClient
import Wire

/// A queue pair of a bare device.
private struct BarePair {
    let region: SoftRegion
    let queue: SoftCompletionQueue
    let pair: SoftQueuePair
    let key: UInt32
    let address: UInt64

    init(_ device: SoftDevice, _ peer: FabricAddress) throws {
        region = try device.allocate(bytes: 1 << 20, access: [])
        queue = try device.makeCompletionQueue(capacity: 1024)
        let (pair, data) = try device.connect(
            to: peer, send: queue, receive: queue, parameters: QueuePairParameters(), privateData: [],
            until: .after(.seconds(10)), prepare: { (_) throws(FabricError) in })
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

    /// One transfer. The program's own buffer is copied to and from registered memory, as LITE does for it.
    func transfer(_ opcode: WorkOpcode, _ bytes: Int, _ offset: Int) {
        withUnsafeTemporaryAllocation(of: ScatterElement.self, capacity: 1) { elements in
            elements[0] = ScatterElement(address: region.base, count: bytes, localKey: region.localKey)
            var work = WorkRequest(opcode, local: UnsafeBufferPointer(elements))
            work.remoteAddress = address + UInt64(offset)
            work.remoteKey = key
            _ = pair.postSend(work)
        }
        withUnsafeTemporaryAllocation(of: WorkCompletion.self, capacity: 1) { completions in
            while queue.poll(into: completions) == 0 {}
        }
    }
}

/// The measuring process.
final class Benchmark {
    private static let sizes = [8, 64, 4096, 64 << 10, 1 << 20]
    private let file: String?
    private let figures: [String]
    private var lines = ["figure,bytes,value,unit"]
    private let directory: String
    private var paths: [String] { ["near", "far"].map { "\(directory)/\($0)" } }

    /// Arguments: figures to measure (all without one), and a file that ends in .csv.
    init(_ arguments: [String]) throws {
        file = arguments.first { $0.hasSuffix(".csv") }
        figures = arguments.filter { !$0.hasSuffix(".csv") }
        var template = Array("/tmp/lego-bench-lite-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw KernelError("mkdtemp") }
        directory = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
    }

    func run() throws {
        let near = try RoleProcess(["node", paths[0]])
        let address = near.readLine()
        let far = try RoleProcess(["node", paths[1], address])
        defer {
            for process in [far, near] { process.end() }
            rmdir(directory)
        }
        _ = far.readLine()
        if wants("transfers") { try transfers() }
        if wants("calls") { try calls() }
        if wants("regions") { try regions() }
        if wants("priorities") { try priorities() }
        if let file { try write(file) }
    }

    private func wants(_ figure: String) -> Bool { figures.isEmpty || figures.contains(figure) }

    // MARK: Figures

    private func transfers() throws {
        let other = try RoleProcess(["bare"])
        defer { other.end() }
        guard let peer = FabricAddress(other.readLine()) else { throw KernelError("no bare device", EPROTO) }
        let device = try SoftDevice()
        defer { device.close() }
        let bare = try BarePair(device, peer)
        let lite = try LiteSession(path: paths[0])
        let nodes = try lite.nodes()
        guard nodes.count == 2 else { throw KernelError("the nodes do not know each other", EPROTO) }
        let local = try lite.malloc(64 << 20)
        let remote = try lite.malloc(64 << 20, on: [nodes[1]])
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
        defer { buffer.deallocate() }
        buffer.initializeMemory(as: UInt8.self, repeating: 1)
        for bytes in Self.sizes {
            let rounds = bytes > 65536 ? 2000 : bytes > 4096 ? 20_000 : 100_000
            let part = UnsafeMutableRawBufferPointer(rebasing: buffer[..<bytes])
            for opcode in [WorkOpcode.read, .write] {
                let base = measure(rounds) { bare.transfer(opcode, bytes, Self.place($0, bytes)) }
                report("\(opcode), bare device", bytes, base, "us")
                for (region, place) in [(local, "own node"), (remote, "other node")] {
                    let mine = measure(rounds) { round in
                        let offset = UInt64(Self.place(round, bytes))
                        check {
                            () throws(LiteFailure) in
                            if opcode == .read {
                                try lite.read(region, at: offset, into: part)
                            } else {
                                try lite.write(region, at: offset, from: UnsafeRawBufferPointer(part))
                            }
                        }
                    }
                    report("\(opcode), LITE, \(place)", bytes, mine, "us")
                    report("\(opcode), LITE, \(place) - bare device", bytes, mine - base, "us")
                }
            }
        }
        lite.leave()
    }

    private func calls() throws {
        for (path, place) in [(paths[0], "own node"), (paths[1], "other node")] {
            let server = try RoleProcess(["echo", path])
            defer { server.end() }
            _ = server.readLine()
            let lite = try LiteSession(path: paths[0])
            let node = place == "own node" ? lite.node : try lite.nodes()[1]
            let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 2 << 20, alignment: 4096)
            defer { buffer.deallocate() }
            buffer.initializeMemory(as: UInt8.self, repeating: 1)
            for bytes in Self.sizes {
                let request = UnsafeRawBufferPointer(rebasing: buffer[..<bytes])
                let reply = UnsafeMutableRawBufferPointer(rebasing: buffer[(1 << 20)...][..<((1 << 20) + bytes)])
                let median = measure(bytes > 65536 ? 500 : 5000) { _ in
                    check {
                        () throws(LiteFailure) in
                        _ = try lite.call(node, Bench.echo, request, reply: reply, until: .never)
                    }
                }
                report("call, LITE, \(place)", bytes, median, "us")
            }
            lite.leave()
        }
    }

    /// 64-byte writes, 16 under way at a time, to as many regions in turn.
    private func regions() throws {
        let lite = try LiteSession(path: paths[0])
        var list: [LiteRegion] = []
        let bytes = [UInt8](repeating: 7, count: 64)
        for count in [1, 10, 100, 1000, 10_000, 100_000] {
            while list.count < count { list.append(try lite.malloc(64)) }
            var best = 0.0
            for _ in 0..<3 { best = max(best, throughput(lite, list, bytes, rounds: 200_000)) }
            report("write 64 B, \(count) regions", 64, best / 1e6, "M/s")
        }
        lite.leave()
    }

    private func throughput(_ lite: LiteSession, _ list: [LiteRegion], _ bytes: [UInt8], rounds: Int) -> Double {
        var operations: [LiteOperation] = []
        operations.reserveCapacity(16)
        var next = 0
        let start = monotonicNanoseconds()
        bytes.withUnsafeBytes { buffer in
            for round in 0..<rounds {
                check {
                    () throws(LiteFailure) in
                    if operations.count == 16 { try lite.wait(operations[round % 16]) }
                    let operation = try lite.beginWrite(list[next], at: 0, from: buffer)
                    if operations.count < 16 {
                        operations.append(operation)
                    } else {
                        operations[round % 16] = operation
                    }
                }
                // A stride that walks through all of them out of order.
                next = (next + 7919) % list.count
            }
        }
        for operation in operations { check { () throws(LiteFailure) in try lite.wait(operation) } }
        return Double(rounds) / Double(monotonicNanoseconds() - start) * 1e9
    }

    private func priorities() throws {
        var options = LiteSession.Options()
        options.priority = .high
        let lite = try LiteSession(path: paths[0], options: options)
        let region = try lite.malloc(1 << 20)
        let bytes = [UInt8](repeating: 1, count: 64)
        func rate() -> Double {
            let start = monotonicNanoseconds()
            let rounds = 200_000
            bytes.withUnsafeBytes { buffer in
                for _ in 0..<rounds { check { () throws(LiteFailure) in try lite.write(region, at: 0, from: buffer) } }
            }
            return Double(rounds) / Double(monotonicNanoseconds() - start) * 1e9
        }
        _ = rate()
        let alone = rate()
        let others = try (0..<8).map { _ in try RoleProcess(["writer", paths[0]]) }
        for other in others { _ = other.readLine() }
        _ = rate()
        let beside = rate()
        for other in others { other.end() }
        report("high priority alone", 64, alone / 1e6, "M/s")
        report("high priority beside 8 of low priority", 64, beside / 1e6, "M/s")
        report("high priority keeps", 64, beside / alone * 100, "%")
        lite.leave()
    }

    // MARK: Measuring

    /// Walks through memory; the same for every figure.
    private static func place(_ round: Int, _ bytes: Int) -> Int { (round &* 8 % 1024) * 4096 % ((32 << 20) - bytes) }

    private func check(_ body: () throws(LiteFailure) -> Void) {
        do throws(LiteFailure) { try body() } catch {
            print("an operation failed: \(error)")
            exit(1)
        }
    }

    /// Runs a body one after the other; answers the median in microseconds.
    private func measure(_ rounds: Int, _ body: (Int) -> Void) -> Double {
        for round in 0..<rounds / 10 { body(round) }
        var samples = [UInt32](repeating: 0, count: rounds)
        var before = monotonicNanoseconds()
        for round in 0..<rounds {
            body(round)
            let after = monotonicNanoseconds()
            samples[round] = UInt32(clamping: after - before)
            before = after
        }
        samples.sort()
        return Double(samples[rounds / 2]) / 1000
    }

    private func report(_ figure: String, _ bytes: Int, _ value: Double, _ unit: String) {
        let thousandths = Int((value * 1000).rounded())
        let digits = String(abs(thousandths % 1000) + 1000).dropFirst()
        let text = "\(thousandths < 0 ? "-" : "")\(abs(thousandths / 1000)).\(digits)"
        lines.append("\"\(figure)\",\(bytes),\(text),\(unit)")
        Bench.say("\(figure), \(bytes) B: \(text) \(unit)")
    }

    private func write(_ path: String) throws {
        guard let output = fopen(path, "w") else { throw KernelError("open \(path)") }
        fputs(lines.joined(separator: "\n") + "\n", output)
        if fclose(output) != 0 { throw KernelError("write \(path)") }
    }
}
