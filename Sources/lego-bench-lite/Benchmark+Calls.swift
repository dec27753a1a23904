import BenchSupport
import Glibc
import Kernel
import LiteClient

// Calls from one program to another, by way of one daemon or of two.
extension Benchmark {
    func calls() throws {
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
                let rounds = bytes > 65536 ? 500 : 5000
                let before = Self.switches
                let median = measure(rounds) { _ in
                    check {
                        () throws(LiteFailure) in
                        _ = try lite.call(node, Bench.echo, request, reply: reply, until: .never)
                    }
                }
                report("call, LITE, \(place)", bytes, median, "us")
                // The rounds that are not counted switch, too.
                let each = Double(Self.switches - before) / (Double(rounds) * 1.05)
                report("call, LITE, \(place), switches between threads on all processors", bytes, each, "")
            }
            lite.leave()
        }
    }

    /// Context switches of the whole machine since its start.
    private static var switches: Int {
        guard let file = fopen("/proc/stat", "r") else { return 0 }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 4096)
        while fgets(&line, 4096, file) != nil {
            let text = line.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
            if text.hasPrefix("ctxt ") { return Int(text.dropFirst(5).prefix { $0.isNumber }) ?? 0 }
        }
        return 0
    }
}
