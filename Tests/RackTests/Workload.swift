import Foundation
import Glibc
import Testing

/// A script of `Programs/workloads`, run natively and in a rack by the same user, each time in an empty directory, with
/// less local memory than it works with.
struct Workload {
    var script: String
    var arguments: [String] = []
    /// The limit of local memory, in MiB.
    var excache: UInt64
    /// How long each of the two runs may take.
    var limit: Duration = .seconds(240)

    init(_ script: String, _ arguments: [String] = [], excache: UInt64, limit: Duration = .seconds(240)) {
        (self.script, self.arguments, self.excache, self.limit) = (script, arguments, excache, limit)
    }

    /// Runs it both ways and compares the output and the end. Evictions are the proof that memory was short; where the
    /// kernel's own share of it is not bounded (`isBounded`), nothing is said about how much was used.
    func compare(in rack: Rack, isBounded: Bool = true) throws {
        let sources = rack.directory + "/sources"
        let here = URL(fileURLWithPath: #filePath).deletingLastPathComponent().path
        if access(sources, F_OK) != 0 {
            let copied = try Command("cp", ["-r", here + "/Programs/workloads", sources]).run()
            try #require(copied.status == 0, "\(copied.errors)")
            _ = try Command("chmod", ["-R", "a+rX", sources]).run()
        }
        let native = try run(sources, in: try emptyDirectory("\(rack.directory)/\(script).native"), by: nil)
        try #require(!native.timedOut, "\(script) does not end natively")
        let result = try run(sources, in: try emptyDirectory("\(rack.directory)/\(script).rack"), by: rack)
        #expect(result.status == native.status, "\(script): \(result.errors)")
        #expect(result.text == native.text, "\(script): \(result.errors)")
        let program = try #require(try rack.programs().max { $0.id < $1.id })
        let statistics = try rack.statistics(program.id)
        #expect(statistics.evictedPages > 0 && statistics.remoteReadPages > 0, "\(script): memory was not short")
        if isBounded {
            #expect(statistics.peakResidentBytes <= (excache << 20) * 105 / 100, "\(script) held more than its limit")
        }
    }

    private func emptyDirectory(_ path: String) throws -> String {
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        chmod(path, 0o777)
        return path
    }

    private func run(_ sources: String, in directory: String, by rack: Rack?) throws -> Command.Result {
        let words =
            ["/usr/bin/env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin", "HOME=\(directory)", "SOURCES=\(sources)"]
            + ["/bin/bash", "\(sources)/\(script).sh"] + arguments
        guard let rack else {
            let user = ["--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--"]
            return try Command("/usr/bin/env", ["-C", directory, "setpriv"] + user + words).run(within: limit)
        }
        return try rack.run(
            ["--user", "nobody", "--cwd", directory, "--excache", "\(excache)MiB"], words, within: limit)
    }
}
