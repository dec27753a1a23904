import BenchSupport
import Glibc
import Kernel
import LiteClient

// What a program of high priority keeps beside eight of low priority. All of it goes on on two processors: one is the
// daemon's, the other is shared by the nine programs, so that how much of it the eight use is part of the figure.
extension Benchmark {
    func priorities() throws {
        let paces = [("as fast as they are served", 0), ("1000 a second each", 1000)]
        for (place, node) in [("own node", 0), ("other node", 1)] {
            var options = LiteSession.Options()
            options.priority = .high
            let lite = try LiteSession(path: paths[0], options: options)
            let nodes = try lite.nodes()
            let region = try lite.malloc(1 << 20, on: [nodes[node]])
            for (pace, perSecond) in paces {
                let before = rate(lite, region)
                let others = try (0..<8).map { _ in
                    try RoleProcess(["writer", paths[0], "\(nodes[node])", "\(perSecond)"])
                }
                for other in others { _ = other.readLine() }
                let start = monotonicNanoseconds()
                _ = rate(lite, region)
                let beside = rate(lite, region)
                let seconds = Double(monotonicNanoseconds() - start) / 1e9
                // Each says its operations and its processor time, in microseconds.
                let said = others.map { $0.end().split(separator: " ").compactMap { Double($0) } }
                let operations = said.reduce(0) { $0 + ($1.first ?? 0) }
                let processor = said.reduce(0) { $0 + ($1.last ?? 0) } / 1e6
                // How much the machine gave meanwhile, as far as that can be told.
                let alone = (before + rate(lite, region)) / 2
                let figure = "8 of low priority, \(pace), \(place)"
                report("high priority alone, before and after, \(place)", 64, alone / 1e6, "M/s")
                report("high priority beside \(figure)", 64, beside / 1e6, "M/s")
                report("high priority beside \(figure), keeps", 64, beside / alone * 100, "%")
                report("\(figure), all of them, from their start to their end", 64, operations / seconds / 1e3, "K/s")
                report("\(figure), processor", 64, processor / seconds * 100, "%")
            }
            lite.leave()
        }
    }

    /// Writes of 64 bytes one after the other, for a second.
    private func rate(_ lite: LiteSession, _ region: LiteRegion) -> Double {
        let bytes = [UInt8](repeating: 1, count: 64)
        let start = monotonicNanoseconds()
        var count = 0
        bytes.withUnsafeBytes { buffer in
            while monotonicNanoseconds() - start < 1_000_000_000 {
                for _ in 0..<100 { check { () throws(LiteFailure) in try lite.write(region, at: 0, from: buffer) } }
                count += 100
            }
        }
        return Double(count) / Double(monotonicNanoseconds() - start) * 1e9
    }
}
