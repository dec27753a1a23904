import BenchSupport
import Glibc
import Kernel
import LiteClient

// What should not depend on how much there is: 64-byte writes against the number of regions, the bytes of a region, and
// the number of programs.
extension Benchmark {
    private static let window = 16

    func regions() throws {
        let lite = try LiteSession(path: paths[0])
        var list: [LiteRegion] = []
        while list.count < 100_000 { list.append(try lite.malloc(64)) }
        // A stride that walks through all of them out of order.
        try compare(lite, [1, 10, 100, 1000, 10_000, 100_000], { "write 64 B to \($0) regions in turn" }) {
            (list[$1 &* 7919 % $0], 0)
        }
        lite.leave()
    }

    func registered() throws {
        let lite = try LiteSession(path: paths[0])
        let region = try lite.malloc(8 << 30)
        // The host's memory is taken before it is measured.
        try lite.memset(region, at: 0, 1, count: region.count)
        awaitHugePages()
        try compare(lite, [1, 16, 256, 1024, 4096, 8192], { "write 64 B anywhere in \($0) MiB" }) {
            (region, UInt64($1) &* 0x9e37_79b9_7f4a_7c15 % (UInt64($0) << 14) &* 64)
        }
        lite.leave()
    }

    /// Waits while the daemon makes huge pages of its arena, for a minute at most.
    private func awaitHugePages() {
        guard let near else { return }
        let deadline = Deadline.after(.seconds(60))
        var seen = -1
        while near.hugeBytes != seen, !deadline.hasPassed {
            seen = near.hugeBytes
            sleep(2)
        }
        report("huge pages of the daemon", 8 << 30, Double(seen) / Double(8 << 30) * 100, "%")
    }

    /// Writes of 64 bytes, 16 under way: the best of rounds that take turns, so that all get the same of the machine.
    private func compare(
        _ lite: LiteSession, _ amounts: [Int], _ figure: (Int) -> String,
        _ target: (_ amount: Int, _ round: Int) -> (LiteRegion, UInt64)
    ) throws {
        var best = [Double](repeating: 0, count: amounts.count)
        let bytes = try lite.allocateBuffer(4096)
        let source = UnsafeRawBufferPointer(rebasing: bytes[..<64])
        for _ in 0..<16 {
            for (place, amount) in amounts.enumerated() {
                best[place] = max(best[place], rate(lite, source) { target(amount, $0) })
            }
        }
        try lite.freeBuffer(bytes)
        for (place, amount) in amounts.enumerated() {
            report(figure(amount), 64, best[place] / 1e6, "M/s")
            report("\(figure(amount)) / \(amounts[0])", 64, best[place] / best[0] * 100, "%")
        }
    }

    /// Operations a second.
    private func rate(
        _ lite: LiteSession, _ source: UnsafeRawBufferPointer, _ target: (Int) -> (LiteRegion, UInt64)
    ) -> Double {
        let rounds = 100_000
        let start = monotonicNanoseconds()
        check {
            () throws(LiteFailure) in
            var operations: [LiteOperation] = []
            operations.reserveCapacity(Self.window)
            for round in 0..<rounds {
                if operations.count == Self.window { try lite.wait(operations[round % Self.window]) }
                let (region, offset) = target(round)
                let operation = try lite.beginWrite(region, at: offset, from: source)
                if operations.count < Self.window {
                    operations.append(operation)
                } else {
                    operations[round % Self.window] = operation
                }
            }
            for operation in operations { try lite.wait(operation) }
        }
        return Double(rounds) / Double(monotonicNanoseconds() - start) * 1e9
    }

    /// A program's writes while so many others have joined the daemon and are idle, and the time that joining takes.
    func clients() throws {
        let lite = try LiteSession(path: paths[0])
        let region = try lite.malloc(4096)
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: 64, alignment: 64)
        defer { bytes.deallocate() }
        bytes.initializeMemory(as: UInt8.self, repeating: 1)
        var others: [RoleProcess] = []
        for count in [0, 10, 100, 1000] {
            let start = monotonicNanoseconds()
            let before = others.count
            while others.count < count { others.append(try RoleProcess(["idle", paths[0]])) }
            // Each has joined and written once when it says so.
            for other in others[before...] {
                let word = other.readLine()
                guard word == "ready" else { throw KernelError("a program could not join: \(word)", EPROTO) }
            }
            if count > before {
                let each = Double(monotonicNanoseconds() - start) / Double(count - before) / 1000
                report("start, join and first write of each of \(count - before) programs", 64, each, "us")
            }
            let median = measure(100_000) { _ in
                check { () throws(LiteFailure) in try lite.write(region, at: 0, from: UnsafeRawBufferPointer(bytes)) }
            }
            report("write 64 B beside \(count) programs", 64, median, "us")
        }
        for other in others { other.end() }
        lite.leave()
    }
}
