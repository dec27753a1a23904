import Glibc
import Kernel
import Testing

/// A child of a test with pipes for its three streams. Killed when nobody holds it any more, and at its deadline.
final class ChildProcess {
    let pid: pid_t
    /// This side's ends; -1 once closed.
    private(set) var input: Int32
    private(set) var output: Int32
    private(set) var errors: Int32
    private var isReaped = false

    /// How it ended.
    enum End: Equatable {
        case exited(Int32)
        case signaled(Int32, dumpedCore: Bool)
        case timedOut
    }

    /// A process group of its own, so that stopping it works as under a shell.
    init(_ path: String, _ arguments: [String], environment: [String: String] = [:]) throws {
        var pipes: [(read: Int32, write: Int32)] = []
        for _ in 0..<3 {
            var pair: [Int32] = [0, 0]
            guard pipe(&pair) == 0 else { throw KernelError("pipe") }
            for end in pair { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
            pipes.append((pair[0], pair[1]))
        }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, pipes[0].read, 0)
        posix_spawn_file_actions_adddup2(&actions, pipes[1].write, 1)
        posix_spawn_file_actions_adddup2(&actions, pipes[2].write, 2)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        // Whatever the test runner blocks or ignores.
        var signals = sigset_t()
        sigemptyset(&signals)
        posix_spawnattr_setsigmask(&attributes, &signals)
        sigfillset(&signals)
        posix_spawnattr_setsigdefault(&attributes, &signals)
        posix_spawnattr_setflags(
            &attributes, Int16(POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
        var variables = ["PATH": "/usr/bin:/bin", "SWIFT_BACKTRACE": "enable=no"]
        variables.merge(environment) { $1 }
        var words: [UnsafeMutablePointer<CChar>?] = ([path] + arguments).map { strdup($0) } + [nil]
        var texts: [UnsafeMutablePointer<CChar>?] = variables.map { strdup("\($0.key)=\($0.value)") } + [nil]
        defer { for text in words + texts { free(text) } }
        var pid = pid_t()
        let result = posix_spawnp(&pid, path, &actions, &attributes, &words, &texts)
        for end in [pipes[0].read, pipes[1].write, pipes[2].write] { close(end) }
        self.pid = pid
        (input, output, errors) = (pipes[0].write, pipes[1].read, pipes[2].read)
        if result != 0 {
            isReaped = true
            throw KernelError("posix_spawn \(path)", result)
        }
    }

    deinit {
        closeInput()
        closeOutput()
        if errors >= 0 { close(errors) }
        if !isReaped {
            kill(pid, SIGKILL)
            waitpid(pid, nil, 0)
        }
    }

    func closeInput() {
        if input >= 0 { close(input) }
        input = -1
    }

    func closeOutput() {
        if output >= 0 { close(output) }
        output = -1
    }

    func send(_ signal: Int32) { kill(pid, signal) }

    /// Reads both outputs to their ends, then waits for the process; kills it at the deadline.
    func finish(within limit: Duration = .seconds(20)) -> (end: End, output: [UInt8], errors: String) {
        let deadline = Deadline.after(limit)
        var collected: [Int32: [UInt8]] = [:]
        var open = Set([output, errors].filter { $0 >= 0 })
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        while !open.isEmpty {
            var watched = open.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            if poll(&watched, nfds_t(watched.count), deadline.pollMilliseconds) == 0 {
                kill(pid, SIGKILL)
                waitpid(pid, nil, 0)
                isReaped = true
                return (.timedOut, collected[output] ?? [], String(decoding: collected[errors] ?? [], as: UTF8.self))
            }
            for entry in watched where entry.revents != 0 {
                let count = read(entry.fd, &buffer, buffer.count)
                if count > 0 { collected[entry.fd, default: []] += buffer[..<count] } else { open.remove(entry.fd) }
            }
        }
        let text = String(decoding: collected[errors] ?? [], as: UTF8.self)
        return (waitForEnd(until: deadline), collected[output] ?? [], text)
    }

    private func waitForEnd(until deadline: Deadline) -> End {
        guard let status = wait(options: 0, until: deadline) else {
            kill(pid, SIGKILL)
            waitpid(pid, nil, 0)
            isReaped = true
            return .timedOut
        }
        isReaped = true
        if status & 0x7f == 0 { return .exited(status >> 8 & 0xff) }
        return .signaled(status & 0x7f, dumpedCore: status & 0x80 != 0)
    }

    /// Waits until the process is stopped; answers the signal that stopped it, nil at the deadline.
    func waitForStop(within limit: Duration = .seconds(20)) -> Int32? {
        guard let status = wait(options: WUNTRACED, until: .after(limit)), status & 0xff == 0x7f else { return nil }
        return status >> 8 & 0xff
    }

    /// A blocking wait in a process with threads cannot have a deadline of its own: another thread ends the child then.
    private func wait(options: Int32, until deadline: Deadline) -> Int32? {
        var status: Int32 = 0
        while !deadline.hasPassed {
            let result = waitpid(pid, &status, options | WNOHANG)
            if result == pid { return status }
            if result < 0 { return nil }
            // SIGCHLD is the test runner's own; a pidfd tells only of ends, not of stops.
            var none = pollfd(fd: -1, events: 0, revents: 0)
            poll(&none, 1, 5)
        }
        return nil
    }

    /// The products of this build: the directory that holds the test bundle.
    static let products: String = {
        let parts = CommandLine.arguments[0].split(separator: "/").dropLast()
        return "/" + parts.joined(separator: "/")
    }()
    static var legoctl: String { products + "/legoctl" }
}
