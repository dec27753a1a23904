import BenchSupport
import Fabric
import Glibc
import Kernel
import LiteClient
import Wire

/// The measuring process.
final class Benchmark {
    static let sizes = [8, 64, 4096, 64 << 10, 1 << 20]
    private let file: String?
    private let figures: [String]
    private var lines = ["figure,bytes,value,unit"]
    let directory: String
    /// The measuring program's node.
    private(set) var near: RoleProcess?
    var paths: [String] { ["near", "far"].map { "\(directory)/\($0)" } }

    /// Arguments: figures to measure (without one, those that take little), and a file that ends in .csv.
    init(_ arguments: [String]) throws {
        file = arguments.first { $0.hasSuffix(".csv") }
        figures = arguments.filter { !$0.hasSuffix(".csv") }
        var template = Array("/tmp/lego-bench-lite-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw KernelError("mkdtemp") }
        directory = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
    }

    func run() throws {
        // As much as the figures need: the memory is taken when it is used.
        let arena = wants("registered") ? 9 << 30 : 512 << 20
        let near = try RoleProcess(["node", paths[0], "\(arena)", "automatic"])
        let address = near.readLine()
        self.near = near
        let far = try RoleProcess(["node", paths[1], "\(512 << 20)", "automatic", address])
        defer {
            for process in [far, near] { process.end() }
            rmdir(directory)
        }
        _ = far.readLine()
        if wants("transfers") { try transfers() }
        if wants("tcp") { try transfersOverTCP() }
        if wants("calls") { try calls() }
        if wants("regions") { try regions() }
        if wants("registered") { try registered() }
        if wants("clients") { try clients() }
        if wants("priorities") { try priorities() }
        if let file { try write(file) }
    }

    private func wants(_ figure: String) -> Bool {
        figures.isEmpty ? !["registered", "clients"].contains(figure) : figures.contains(figure)
    }

    // MARK: Measuring

    /// Walks through memory; the same for every figure.
    static func place(_ round: Int, _ bytes: Int) -> Int { (round &* 8 % 1024) * 4096 % ((32 << 20) - bytes) }

    func check(_ body: () throws(LiteFailure) -> Void) {
        do throws(LiteFailure) { try body() } catch {
            print("an operation failed: \(error)")
            exit(1)
        }
    }

    /// Runs a body one after the other; answers the median in microseconds.
    func measure(_ rounds: Int, _ body: (Int) -> Void) -> Double { Latencies(rounds: rounds, body).median }

    func report(_ figure: String, _ bytes: Int, _ value: Double, _ unit: String) {
        let text = fixed(value, decimals: 3)
        lines.append("\"\(figure)\",\(bytes),\(text),\(unit)")
        Role.say("\(figure), \(bytes) B: \(text) \(unit)")
    }

    private func write(_ path: String) throws {
        guard let output = fopen(path, "w") else { throw KernelError("open \(path)") }
        fputs(lines.joined(separator: "\n") + "\n", output)
        if fclose(output) != 0 { throw KernelError("write \(path)") }
    }
}
