import Glibc
import Kernel

/// How long the rounds of a measurement took, in microseconds.
public struct Latencies: Sendable {
    public var least: Double
    public var median: Double
    /// 99 of 100 rounds took no longer.
    public var tail: Double
    public var most: Double
    public var mean: Double

    /// Runs `body` one round after the other, a twentieth of them before the clock counts. The clock is read after every
    /// round (some 30 ns, which count), or after as many as `batch`, whose mean then is one sample.
    public init(rounds: Int, batch: Int = 1, _ body: (Int) -> Void) {
        for round in 0..<rounds / 20 { body(round) }
        var samples = [Double](repeating: 0, count: max(1, rounds / batch))
        var before = monotonicNanoseconds()
        let start = before
        for sample in samples.indices {
            for round in 0..<batch { body(sample &* batch &+ round) }
            let after = monotonicNanoseconds()
            samples[sample] = Double(after - before) / Double(batch) / 1000
            before = after
        }
        mean = Double(before - start) / Double(samples.count * batch) / 1000
        samples.sort()
        least = samples[0]
        median = samples[samples.count / 2]
        tail = samples[samples.count * 99 / 100]
        most = samples[samples.count - 1]
    }
}

/// A number with so many decimals.
public func fixed(_ value: Double, decimals: Int = 2) -> String {
    let scale = [1, 10, 100, 1000][decimals]
    let whole = Int((value * Double(scale)).rounded())
    let sign = whole < 0 ? "-" : ""
    if decimals == 0 { return "\(whole)" }
    let digits = String(abs(whole % scale) + scale).dropFirst()
    return "\(sign)\(abs(whole / scale)).\(digits)"
}
