import Glibc
import Kernel
import Synchronization

/// The C programs of the capture tests, and what builds and compares them.
enum CapturePrograms {
    static let directory = String(#filePath[..<#filePath.lastIndex(of: "/")!]) + "/Programs"

    struct CommandFailed: Error, CustomStringConvertible {
        var description: String
    }

    /// Runs `body` with a directory of its own, and removes it.
    static func withDirectory<Value>(_ body: (String) throws -> Value) throws -> Value {
        var template = Array("/tmp/lego-capture-XXXXXX".utf8CString)
        if mkdtemp(&template) == nil { throw KernelError("mkdtemp") }
        let path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        defer { _ = try? command(["rm", "-rf", path]) }
        return try body(path)
    }

    /// Runs a command natively, for at most a minute; answers what it wrote.
    @discardableResult
    static func command(_ arguments: [String]) throws -> String {
        let quoted = arguments.map {
            "'" + $0.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''") + "'"
        }
        guard let pipe = popen("exec timeout 60 " + quoted.joined(separator: " ") + " 2>&1", "r") else {
            throw KernelError("popen")
        }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65536)
        while case let count = fread(&chunk, 1, chunk.count, pipe), count > 0 { bytes += chunk[..<count] }
        let text = String(decoding: bytes, as: UTF8.self)
        let status = pclose(pipe)
        if status != 0 { throw CommandFailed(description: "\(arguments): status \(status): \(text)") }
        return text
    }

    static func write(_ bytes: [UInt8], to path: String) throws {
        guard let file = fopen(path, "w") else { throw KernelError("fopen") }
        defer { fclose(file) }
        if fwrite(bytes, 1, bytes.count, file) != bytes.count { throw KernelError("fwrite") }
    }

    static func read(_ path: String) throws -> [UInt8] {
        guard let file = fopen(path, "r") else { throw KernelError("fopen") }
        defer { fclose(file) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65536)
        while case let count = fread(&chunk, 1, chunk.count, file), count > 0 { bytes += chunk[..<count] }
        return bytes
    }
}

/// Takes an outcome from another thread.
final class OutcomeBox: Sendable {
    private let outcome = Mutex<CaptureRack.Outcome?>(nil)
    var value: CaptureRack.Outcome? { outcome.withLock { $0 } }
    func set(_ value: CaptureRack.Outcome?) { outcome.withLock { $0 = value } }
}
