import Glibc
import Kernel

/// A child process of a test: its whole output, its end, and a deadline after which it is killed.
struct Command {
    /// What a finished command left behind.
    struct Result {
        /// Exit status, or 128 + the signal that ended it, as a shell counts.
        var status: Int32
        var output: [UInt8]
        var errors: String
        var timedOut = false
        var text: String { String(decoding: output, as: UTF8.self) }
    }

    var path: String
    var arguments: [String]
    var input: [UInt8] = []
    /// Added to the test's own environment.
    var environment: [String: String] = [:]

    init(_ path: String, _ arguments: [String], input: [UInt8] = [], environment: [String: String] = [:]) {
        self.path = path
        self.arguments = arguments
        self.input = input
        self.environment = environment
    }

    /// Runs to the end or to the deadline.
    func run(within limit: Duration = .seconds(60)) throws -> Result {
        try start().finish(until: .after(limit))
    }

    /// Starts it; the caller finishes or kills it.
    func start(keepingInputOpen: Bool = false) throws -> RunningCommand {
        try RunningCommand(self, keepsInputOpen: keepingInputOpen)
    }
}

/// A command that has been started. Killed when nobody holds it any more.
final class RunningCommand {
    let pid: pid_t
    private var input: Int32
    private var output: Int32
    private var errors: Int32
    private var pendingInput: ArraySlice<UInt8>
    private var collectedOutput: [UInt8] = []
    private var collectedErrors: [UInt8] = []
    private let keepsInputOpen: Bool
    private var reaped = false

    fileprivate init(_ command: Command, keepsInputOpen: Bool) throws {
        self.keepsInputOpen = keepsInputOpen
        let inputPipe = try Self.makePipe()
        let outputPipe = try Self.makePipe()
        let errorPipe = try Self.makePipe()
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, inputPipe.read, 0)
        posix_spawn_file_actions_adddup2(&actions, outputPipe.write, 1)
        posix_spawn_file_actions_adddup2(&actions, errorPipe.write, 2)
        // A test runner may block signals or ignore them; what it starts must not inherit that.
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        var all = sigset_t()
        sigemptyset(&none)
        sigfillset(&all)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setsigdefault(&attributes, &all)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
        // From /: where the tests were started may not exist in a rack, as /tmp is private to programs.
        let words = ["/usr/bin/env", "-C", "/", command.path] + command.arguments
        var argv: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
        var variables = Self.ownEnvironment()
        for (name, value) in command.environment { variables[name] = value }
        variables["SWIFT_BACKTRACE"] = "enable=no"
        var envp: [UnsafeMutablePointer<CChar>?] = variables.map { strdup("\($0.key)=\($0.value)") } + [nil]
        defer { for word in argv + envp { free(word) } }
        var pid = pid_t()
        let result = posix_spawn(&pid, words[0], &actions, &attributes, &argv, &envp)
        for end in [inputPipe.read, outputPipe.write, errorPipe.write] { close(end) }
        if result != 0 {
            for end in [inputPipe.write, outputPipe.read, errorPipe.read] { close(end) }
            throw KernelError("posix_spawn \(command.path)", result)
        }
        self.pid = pid
        input = inputPipe.write
        output = outputPipe.read
        errors = errorPipe.read
        pendingInput = command.input[...]
        for end in [input, output, errors] { _ = fcntl(end, F_SETFL, O_NONBLOCK) }
        if pendingInput.isEmpty && !keepsInputOpen { closeInput() }
    }

    deinit {
        if !reaped {
            kill(pid, SIGKILL)
            var status: Int32 = 0
            waitpid(pid, &status, 0)
        }
        for end in [input, output, errors] where end >= 0 { close(end) }
    }

    private static func makePipe() throws -> (read: Int32, write: Int32) {
        var ends: [Int32] = [0, 0]
        if pipe(&ends) < 0 { throw KernelError("pipe") }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        return (ends[0], ends[1])
    }

    private static func ownEnvironment() -> [String: String] {
        var variables: [String: String] = [:]
        var next = environ
        while let entry = next.pointee {
            let text = String(cString: entry)
            if let equals = text.firstIndex(of: "=") {
                variables[String(text[..<equals])] = String(text[text.index(after: equals)...])
            }
            next += 1
        }
        return variables
    }

    /// Ends the process's standard input, where `start(keepingInputOpen:)` kept it open.
    func closeStandardInput() { closeInput() }

    /// Gives the process more input, where `start(keepingInputOpen:)` kept it open.
    func write(_ text: String) {
        pendingInput += Array(text.utf8)
        give()
    }

    private func closeInput() {
        if input >= 0 { close(input) }
        input = -1
    }

    /// Sends a signal to the process.
    func signal(_ number: Int32) { kill(pid, number) }

    /// Moves data until `enough` holds, both streams have ended or the deadline passes. Answers whether `enough` held.
    func pump(until deadline: Deadline, enough: (_ output: [UInt8], _ errors: [UInt8]) -> Bool) -> Bool {
        while !enough(collectedOutput, collectedErrors) {
            if output < 0 && errors < 0 || deadline.hasPassed { return false }
            var waiting = [
                pollfd(fd: output, events: Int16(POLLIN), revents: 0),
                pollfd(fd: errors, events: Int16(POLLIN), revents: 0),
                pollfd(fd: pendingInput.isEmpty ? -1 : input, events: Int16(POLLOUT), revents: 0),
            ]
            poll(&waiting, 3, deadline.pollMilliseconds)
            if waiting[0].revents != 0 { take(&output, into: &collectedOutput) }
            if waiting[1].revents != 0 { take(&errors, into: &collectedErrors) }
            if waiting[2].revents != 0 { give() }
        }
        return true
    }

    private func take(_ end: inout Int32, into collected: inout [UInt8]) {
        var buffer = [UInt8](repeating: 0, count: 65536)
        let count = read(end, &buffer, buffer.count)
        if count > 0 {
            collected += buffer[..<count]
        } else if count == 0 || errno != EAGAIN {
            close(end)
            end = -1
        }
    }

    private func give() {
        let count = pendingInput.withUnsafeBytes { Glibc.write(input, $0.baseAddress, min($0.count, 65536)) }
        if count > 0 { pendingInput = pendingInput.dropFirst(count) }
        if pendingInput.isEmpty && !keepsInputOpen || (count < 0 && errno != EAGAIN) { closeInput() }
    }

    /// Waits for the end; kills at the deadline.
    func finish(until deadline: Deadline) -> Command.Result {
        let ended = !pump(until: deadline) { _, _ in false } && output < 0 && errors < 0
        if !ended { kill(pid, SIGKILL) }
        var status: Int32 = 0
        waitpid(pid, &status, 0)
        reaped = true
        let signal = status & 0x7f
        return Command.Result(
            status: signal == 0 ? (status >> 8) & 0xff : 128 + signal, output: collectedOutput,
            errors: String(decoding: collectedErrors, as: UTF8.self), timedOut: !ended)
    }
}
