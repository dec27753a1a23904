import Glibc
import Kernel

/// A program in C against liblite.so, in a process of its own. It ends by itself after a minute, whatever happens.
final class Program {
    /// Programs and daemons are not built for a sanitizer.
    static let canRun = getenv("TSAN_OPTIONS") == nil
    private(set) var process: pid_t = 0
    private let output: Int32

    /// Where this package and its products are.
    private static var package: String {
        let parts = #filePath.split(separator: "/").dropLast(3)
        return "/" + parts.joined(separator: "/")
    }

    /// Where the library and the daemons are that were built with these tests.
    static var products: String {
        var link = [CChar](repeating: 0, count: 4096)
        let length = readlink("/proc/self/exe", &link, link.count - 1)
        let executable = link.prefix(max(0, length)).map { UInt8(bitPattern: $0) }
        // The test bundle lies beside them; the program that runs it may not.
        let bundle = CommandLine.arguments.first { $0.hasSuffix(".xctest") }
        let built = bundle ?? String(decoding: executable, as: UTF8.self)
        return "/" + built.split(separator: "/").dropLast().joined(separator: "/")
    }

    /// Compiles a program of this directory against the library that was built with these tests.
    static func compile(_ name: String, into directory: String) throws -> String {
        let program = "\(directory)/\(name)"
        let source = "\(package)/Tests/LiteClientTests/Programs/\(name).c"
        let compiler = try Program(
            "/usr/bin/cc",
            [
                "-std=gnu17", "-Wall", "-Wextra", "-Werror", "-O1", "-I", "\(package)/Sources/CLite/include", "-o",
                program,
                source, "-L", products, "-llite", "-Wl,-rpath,\(products)", "-lpthread",
            ])
        let (text, status) = compiler.wait()
        if status != 0 { throw KernelError("cc \(name).c: \(text)", EINVAL) }
        return program
    }

    init(_ path: String, _ arguments: [String]) throws {
        var pipes: [Int32] = [0, 0]
        if pipe(&pipes) < 0 { throw KernelError("pipe") }
        for descriptor in pipes { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, pipes[1], 1)
        posix_spawn_file_actions_adddup2(&actions, pipes[1], 2)
        let argv = ([path] + arguments).map { strdup($0) } + [nil]
        defer { for text in argv { free(text) } }
        // What runs the tests may have blocked signals; the program must take them.
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
        let result = posix_spawn(&process, path, &actions, &attributes, argv, environ)
        close(pipes[1])
        output = pipes[0]
        if result != 0 { throw KernelError("posix_spawn \(path)", result) }
    }

    deinit {
        kill()
        close(output)
    }

    func kill() {
        if process == 0 { return }
        Glibc.kill(process, SIGKILL)
        waitpid(process, nil, 0)
        process = 0
    }

    func readLine() -> String {
        var bytes: [UInt8] = []
        var byte: UInt8 = 0
        while read(output, &byte, 1) == 1, byte != 10 { bytes.append(byte) }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Everything that it writes, and its exit status.
    func wait() -> (text: String, status: Int32) {
        var text: [UInt8] = []
        var bytes = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = read(output, &bytes, bytes.count)
            if count <= 0 { break }
            text += bytes.prefix(count)
        }
        var status: Int32 = 0
        waitpid(process, &status, 0)
        process = 0
        return (String(decoding: text, as: UTF8.self), status)
    }

    /// The process that another one has started.
    static func child(of process: pid_t) -> pid_t? {
        guard let file = fopen("/proc/\(process)/task/\(process)/children", "r") else { return nil }
        defer { fclose(file) }
        var number: Int32 = 0
        return withVaList([withUnsafeMutablePointer(to: &number) { $0 }]) { vfscanf(file, "%d", $0) } == 1
            ? number : nil
    }

    /// Stops a process; returns when none of its threads runs any more. False when there is no such process.
    static func stop(_ process: pid_t) -> Bool {
        if Glibc.kill(process, SIGSTOP) < 0 { return false }
        return eventually { states(of: process).allSatisfy { $0 == "T" } }
    }

    /// The states of a process's threads, as in proc(5).
    private static func states(of process: pid_t) -> [Character] {
        guard let directory = opendir("/proc/\(process)/task") else { return [] }
        defer { closedir(directory) }
        var states: [Character] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            guard let file = fopen("/proc/\(process)/task/\(name)/stat", "r") else { continue }
            defer { fclose(file) }
            var line = [CChar](repeating: 0, count: 512)
            if fgets(&line, 512, file) == nil { continue }
            let text = line.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
            // The name before it may hold anything.
            if let state = text.split(separator: ")").last?.first(where: { $0 != " " }) { states.append(state) }
        }
        return states
    }

    /// Starts a daemon of a cluster; answers it and its address. It ends after a minute, whatever happens. What it
    /// writes is not read once it serves, so that it says only warnings.
    static func daemon(_ name: String, in directory: String, _ more: [String]) throws -> (Program, address: String) {
        let daemon = try Program(
            "/usr/bin/timeout",
            [
                "--foreground", "--signal=KILL", "60", "\(products)/lego-lite", "--listen", "127.0.0.1:0", "--arena",
                "8MiB", "--name",
                name, "--socket", "\(directory)/\(name)",
            ] + more)
        while true {
            let line = daemon.readLine()
            if line.isEmpty { throw KernelError("lego-lite ended", EPROTO) }
            if line.contains("serving"),
                let address = line.split(separator: "nodes=").last?.split(separator: " ").first
            {
                return (daemon, String(address))
            }
        }
    }
}

func makeDirectory() throws -> String {
    var template = Array("/tmp/lego-lite-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw KernelError("mkdtemp") }
    return template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
}

/// A directory that goes when it has been emptied.
func withDirectory(_ body: (String) throws -> Void) throws {
    let directory = try makeDirectory()
    defer { rmdir(directory) }
    try body(directory)
}
