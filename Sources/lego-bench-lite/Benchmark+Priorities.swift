import BenchSupport
import Glibc
import Kernel
import LiteClient

// What a program of high priority keeps beside eight of low priority. All of it goes on on two processors: one is the
// daemon's, the other is shared by the nine programs, so that how much of it the eight use is part of the figure. The
// eight are stopped and let go on by turns, so that both sides of the comparison get what the machine just gives.
extension Benchmark {
    private static let rounds = 24
    private static let window_ns: UInt64 = 40_000_000

    /// How the eight behave: operations a second each (0: as many as are served), and their niceness.
    private struct Company {
        var text: String
        var perSecond: Int
        var nice: Int
        var arguments: [String] { ["\(perSecond)", "\(nice)"] }
    }
    private static let companies = [
        Company(text: "as fast as they are served", perSecond: 0, nice: 0),
        Company(text: "1000 a second each", perSecond: 1000, nice: 0),
        Company(text: "as fast as they are served, the host's scheduler told", perSecond: 0, nice: 19),
    ]

    func priorities() throws {
        for (place, number) in [("own node", 0), ("other node", 1)] {
            var options = LiteSession.Options()
            options.priority = .high
            let lite = try LiteSession(path: paths[0], options: options)
            let node = try lite.nodes()[number]
            let region = try lite.malloc(1 << 20, on: [node])
            for company in Self.companies { try compare(lite, region, company, node, place) }
            lite.leave()
        }
    }

    private func compare(_ lite: LiteSession, _ region: LiteRegion, _ company: Company, _ node: UInt64, _ place: String)
        throws
    {
        let before = rate(lite, region, Self.window_ns * 10)
        let others = try (0..<8).map { _ in try RoleProcess(["writer", paths[0], "\(node)"] + company.arguments) }
        for other in others { _ = other.readLine() }
        var alone: [Double] = []
        var beside: [Double] = []
        var theirs = 0.0
        for _ in 0..<Self.rounds {
            for other in others { other.stop() }
            alone.append(settledRate(lite, region))
            for other in others { other.goOn() }
            let before = others.reduce(0) { $0 + $1.processorSeconds }
            beside.append(settledRate(lite, region))
            theirs += others.reduce(0) { $0 + $1.processorSeconds } - before
        }
        for other in others { other.end() }
        let seconds = Double(Self.rounds) * Double(Self.window_ns) * 1.25 / 1e9
        let figure = "8 of low priority, \(company.text), \(place)"
        report("high priority before \(figure)", 64, before / 1e6, "M/s")
        report("high priority while they stand still: \(figure)", 64, median(alone) / 1e6, "M/s")
        report("high priority beside \(figure)", 64, median(beside) / 1e6, "M/s")
        let kept = zip(beside, alone).map { $0 / $1 * 100 }.sorted()
        report("high priority beside \(figure), keeps", 64, median(kept), "%")
        report("the same, a quarter of the rounds less than", 64, kept[kept.count / 4], "%")
        report("the same, a quarter of the rounds more than", 64, kept[kept.count * 3 / 4], "%")
        report("\(figure), processor", 64, theirs / seconds * 100, "%")
    }

    private func median(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }

    /// The rate once what the others were told has had its effect.
    private func settledRate(_ lite: LiteSession, _ region: LiteRegion) -> Double {
        _ = rate(lite, region, Self.window_ns / 4)
        return rate(lite, region, Self.window_ns)
    }

    /// Writes of 64 bytes one after the other, for so long.
    private func rate(_ lite: LiteSession, _ region: LiteRegion, _ span_ns: UInt64) -> Double {
        let bytes = [UInt8](repeating: 1, count: 64)
        let start = monotonicNanoseconds()
        var count = 0
        bytes.withUnsafeBytes { buffer in
            while monotonicNanoseconds() - start < span_ns {
                for _ in 0..<100 { check { () throws(LiteFailure) in try lite.write(region, at: 0, from: buffer) } }
                count += 100
            }
        }
        return Double(count) / Double(monotonicNanoseconds() - start) * 1e9
    }
}
