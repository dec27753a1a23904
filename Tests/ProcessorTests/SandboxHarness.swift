import CLinux
import Glibc
import Kernel

@testable import ProcessorService

/// What a program in a sandbox left behind.
struct Outcome: Equatable {
    var end: Sandbox.End
    var output: String
    var error: String

    /// The exit status, or nil when a signal ended the program.
    var exitStatus: Int32? {
        if case .program(let status) = end, status & 0x7f == 0 { return status >> 8 & 0xff }
        return nil
    }

    var signal: Int32? {
        if case .program(let status) = end, status & 0x7f != 0 { return status & 0x7f }
        return nil
    }
}

enum HarnessError: Error { case deadline(String), failed(String) }

/// Starts programs in sandboxes whose tree is this host's own, and hands their streams to the test.
struct SandboxHarness {
    /// lego-sandbox is built beside the tests.
    static let executable: String = {
        var buffer = [CChar](repeating: 0, count: 4096)
        let count = readlink("/proc/self/exe", &buffer, buffer.count - 1)
        let own = String(decoding: buffer.prefix(max(0, count)).map(UInt8.init(bitPattern:)), as: UTF8.self)
        return own[..<(own.lastIndex(of: "/") ?? own.startIndex)] + "/lego-sandbox"
    }()

    /// A filter that lets everything pass.
    static let allowAll = filter([(0x06, 0, 0, 0x7fff_0000)])

    /// A filter that traps one system call.
    static func trapping(_ number: UInt32) -> [UInt8] {
        filter([(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x7fc0_0000), (0x06, 0, 0, 0x7fff_0000)])
    }

    private static func filter(_ instructions: [(UInt16, UInt8, UInt8, UInt32)]) -> [UInt8] {
        var bytes: [UInt8] = []
        for (code, whenTrue, whenFalse, operand) in instructions {
            withUnsafeBytes(of: code) { bytes.append(contentsOf: $0) }
            bytes.append(contentsOf: [whenTrue, whenFalse])
            withUnsafeBytes(of: operand) { bytes.append(contentsOf: $0) }
        }
        return bytes
    }

    static func plan(_ arguments: [String]) -> SandboxPlan {
        SandboxPlan(
            root: "/", rootName: "storage0", workingDirectory: "/", user: 65534, group: 65534, groups: [],
            arguments: arguments, environment: ["PATH=/usr/bin:/bin", "LANG=C"], filter: allowAll)
    }

    /// Runs a program to its end. Nothing it does keeps this waiting beyond the deadline.
    static func run(
        _ arguments: [String], input: String = "", change: (inout SandboxPlan) -> Void = { _ in }
    ) throws -> Outcome {
        var plan = plan(arguments)
        change(&plan)
        let running = try RunningSandbox(plan)
        guard running.sandbox.release() else { throw HarnessError.failed("the program was dead before its start") }
        try running.write(input)
        running.closeInput()
        return try running.finish()
    }
}

/// A sandbox whose program may run, and this process's ends of its streams. Used by one thread.
final class RunningSandbox {
    let sandbox: Sandbox
    private let deadline = Deadline.after(.seconds(30))
    private var input: Int32
    private let output: Int32
    private let error: Int32

    init(_ plan: SandboxPlan) throws {
        let input = try Pipe()
        let output = try Pipe()
        let error = try Pipe()
        self.input = try input.writing.duplicate().release()
        self.output = try output.reading.duplicate().release()
        self.error = try error.reading.duplicate().release()
        let streams = StandardStreams(
            input: try input.reading.duplicate(), output: try output.writing.duplicate(),
            error: try error.writing.duplicate())
        do {
            sandbox = try Sandbox.launch(
                executable: SandboxHarness.executable, plan: plan, streams: streams, limit: .seconds(20))
        } catch {
            for descriptor in [self.input, self.output, self.error] { close(descriptor) }
            throw error
        }
    }

    deinit {
        sandbox.kill()
        sandbox.reap()
        if input >= 0 { close(input) }
        close(output)
        close(error)
    }

    func write(_ text: String) throws {
        let bytes = Array(text.utf8)
        var done = 0
        while done < bytes.count {
            let count = bytes.withUnsafeBytes { Glibc.write(input, $0.baseAddress! + done, bytes.count - done) }
            if count <= 0 { throw KernelError("write") }
            done += count
        }
    }

    func closeInput() {
        if input >= 0 { close(input) }
        input = -1
    }

    /// The next line of standard output, without its end.
    func readLine() throws -> String {
        var line: [UInt8] = []
        while true {
            var byte: UInt8 = 0
            try wait(for: output)
            let count = read(output, &byte, 1)
            if count <= 0 || byte == 10 { return String(decoding: line, as: UTF8.self) }
            line.append(byte)
        }
    }

    /// Reads both streams to their ends and waits for the program's.
    func finish() throws -> Outcome {
        let output = try readAll(self.output)
        let error = try readAll(self.error)
        return Outcome(end: try end(), output: output, error: error)
    }

    func end() throws -> Sandbox.End {
        while true {
            if let end = sandbox.nextEnd(), end != .beginning { return end }
            try wait(for: sandbox.controlSocket)
        }
    }

    private func readAll(_ descriptor: Int32) throws -> String {
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            try wait(for: descriptor)
            let count = read(descriptor, &buffer, buffer.count)
            if count <= 0 { return String(decoding: bytes, as: UTF8.self) }
            bytes.append(contentsOf: buffer.prefix(count))
        }
    }

    private func wait(for descriptor: Int32) throws {
        var waited = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        while poll(&waited, 1, deadline.pollMilliseconds) < 0, errno == EINTR {}
        if waited.revents == 0 { throw HarnessError.deadline("descriptor \(descriptor)") }
    }
}

/// Reads a small file of /proc; empty when it is gone.
func readText(_ path: String) -> String {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    if descriptor < 0 { return "" }
    defer { close(descriptor) }
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 4096)
    while true {
        let count = read(descriptor, &buffer, buffer.count)
        if count <= 0 { return String(decoding: bytes, as: UTF8.self) }
        bytes.append(contentsOf: buffer.prefix(count))
    }
}

/// The names in a directory; none when it is gone.
func directoryEntries(_ path: String) -> [String] {
    guard let directory = opendir(path) else { return [] }
    defer { closedir(directory) }
    var names: [String] = []
    while let entry = readdir(directory) {
        names.append(
            withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            })
    }
    return names
}

/// A guardian that this process has started; the tests of this target run one at a time.
func guardianOfThisProcess() -> Int32? {
    directoryEntries("/proc").compactMap { Int32($0) }.first {
        readText("/proc/\($0)/comm") == "lego-guardian\n"
            && readText("/proc/\($0)/status").contains("PPid:\t\(getpid())\n")
    }
}

/// Whether a process exists and is no zombie.
func isAlive(_ process: Int32) -> Bool {
    let status = readText("/proc/\(process)/status")
    return !status.isEmpty && !status.contains("State:\tZ") && !status.contains("State:\tX")
}

/// Looks until `condition` holds. Its callers' own assertion follows; the deadline only ends a wait for what never
/// comes.
func eventually(_ condition: () -> Bool) -> Bool {
    let deadline = Deadline.after(.seconds(20))
    while !condition() {
        if deadline.hasPassed { return false }
        var pause = timespec(tv_sec: 0, tv_nsec: 2_000_000)
        nanosleep(&pause, nil)
    }
    return true
}

/// A directory that vanishes with the value.
final class TemporaryDirectory {
    let path: String

    init() throws {
        var template = Array("/var/tmp/lego-test-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw KernelError("mkdtemp") }
        path = String(decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
        chmod(path, 0o755)
    }

    deinit { _ = try? Shell.run(["/bin/rm", "-rf", path]) }

    @discardableResult
    func write(_ name: String, _ text: String, mode: mode_t = 0o644) throws -> String {
        let path = "\(path)/\(name)"
        let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode)
        if descriptor < 0 { throw KernelError("open \(path)") }
        defer { close(descriptor) }
        var text = text
        let written = text.withUTF8 { Glibc.write(descriptor, $0.baseAddress, $0.count) }
        if written != text.utf8.count { throw KernelError("write \(path)") }
        fchmod(descriptor, mode)
        return path
    }
}

/// Runs host programs that prepare a test.
enum Shell {
    @discardableResult
    static func run(_ arguments: [String]) throws -> Int32 {
        let null = open("/dev/null", O_RDWR | O_CLOEXEC)
        defer { close(null) }
        let process = spawn(arguments, [null, null, null])
        if process < 0 { throw KernelError("posix_spawn \(arguments[0])", -process) }
        var status: Int32 = 0
        while waitpid(process, &status, 0) < 0, errno == EINTR {}
        if status != 0 { throw HarnessError.failed("\(arguments.joined(separator: " ")) ended with status \(status)") }
        return status
    }

    /// Starts a host program with the given descriptors as 0, 1, 2, …; answers its number or -errno.
    static func spawn(_ arguments: [String], _ descriptors: [Int32]) -> Int32 {
        let texts = arguments.map { strdup($0) }
        defer { for text in texts { free(text) } }
        let pointers = texts.map { UnsafePointer<CChar>($0) } + [nil]
        return lego_spawn(arguments[0], pointers, descriptors, descriptors.count)
    }

    /// Compiles a C file that lies beside the tests.
    static func compile(_ source: String, to path: String, with extra: [String] = []) throws {
        try run(["/usr/bin/env", "PATH=/usr/bin:/bin", "cc", "-O1", "-w", "-o", path, source] + extra)
    }
}
