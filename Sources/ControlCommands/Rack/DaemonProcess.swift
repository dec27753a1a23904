import CLinux
import Glibc
import Kernel
import Wire

/// A daemon that this command starts: its process, its log, and the socket over which it says that it is ready.
///
/// The daemon belongs to this command until the start is committed: when the command ends before, however it ends, the
/// socket closes and the daemon stops by itself.
final class DaemonProcess {
    let name: String
    let executable: String
    let arguments: [String]
    let log: String
    let pid: Int32
    /// This end of the readiness socket; -1 once closed.
    private var socket: Int32
    private var received: [UInt8] = []
    /// Set when the daemon has spoken or ended.
    private(set) var outcome: Outcome?
    private var isReaped = false

    enum Outcome: Equatable {
        case ready(liteAddress: String, apiAddress: String)
        case failed(String)
    }

    /// The numbers under which the daemon finds its end of the socket, and what keeps it.
    private static let readyDescriptor: Int32 = 3
    private static let keepDescriptor: Int32 = 4

    /// Starts the daemon in a session of its own, with its output appended to the log.
    init(name: String, executable: String, arguments: [String], log: String, commitment: borrowing StartCommitment)
        throws(CommandFailure)
    {
        self.name = name
        self.executable = executable
        self.arguments = arguments
        self.log = log
        var pair: [Int32] = [-1, -1]
        let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
        if socketpair(AF_UNIX, type, 0, &pair) < 0 {
            throw CommandFailure("cannot start \(name): \(KernelError("socketpair"))")
        }
        defer { close(pair[1]) }
        let words =
            [executable] + arguments + ["--ready-fd", "\(Self.readyDescriptor)", "--keep-fd", "\(Self.keepDescriptor)"]
        do {
            pid = try Self.spawn(words, log: log, socket: pair[1], keep: commitment.raw)
        } catch {
            close(pair[0])
            throw CommandFailure("cannot start \(name) (\(executable)): \(KernelError.text(error.number))")
        }
        socket = pair[0]
    }

    deinit { if socket >= 0 { close(socket) } }

    private static func spawn(_ words: [String], log: String, socket: Int32, keep: Int32) throws(KernelError) -> Int32 {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, log, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0o640)
        posix_spawn_file_actions_adddup2(&actions, 1, 2)
        posix_spawn_file_actions_adddup2(&actions, socket, readyDescriptor)
        posix_spawn_file_actions_adddup2(&actions, keep, keepDescriptor)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        sigemptyset(&none)
        var all = sigset_t()
        sigfillset(&all)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setsigdefault(&attributes, &all)
        // POSIX_SPAWN_SETSID, which the C library's Swift module leaves out.
        let newSession: Int32 = 0x80
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | newSession))
        var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
        // A crash ends a daemon at once; the interactive backtracer would keep its last moments for half a minute.
        var environment: [UnsafeMutablePointer<CChar>?] =
            Variables.own.filter { !$0.hasPrefix("SWIFT_BACKTRACE=") }.map(Variables.cString)
            + [strdup("SWIFT_BACKTRACE=enable=no"), nil]
        defer { for text in arguments + environment { free(text) } }
        var pid = pid_t()
        let result = posix_spawn(&pid, words[0], &actions, &attributes, &arguments, &environment)
        if result != 0 { throw KernelError("posix_spawn", result) }
        return pid
    }

    /// Waits until every daemon has said that it is ready or why not, or the deadline has passed.
    static func awaitReadiness(of daemons: [DaemonProcess], until deadline: Deadline) {
        while !deadline.hasPassed {
            let waiting = daemons.filter { $0.outcome == nil }
            if waiting.isEmpty { return }
            var watched = waiting.map { pollfd(fd: $0.socket, events: Int16(POLLIN), revents: 0) }
            if poll(&watched, nfds_t(watched.count), deadline.pollMilliseconds) <= 0 { continue }
            for (entry, daemon) in zip(watched, waiting) where entry.revents != 0 { daemon.receive() }
            // One that failed fails the command: no use in waiting for the others.
            if daemons.contains(where: { if case .failed = $0.outcome { true } else { false } }) { return }
        }
        for daemon in daemons where daemon.outcome == nil {
            daemon.outcome = .failed("it was not ready in time" + daemon.lastWords)
        }
    }

    private func receive() {
        var buffer = [UInt8](repeating: 0, count: DaemonReadiness.bytes_max)
        let count = recv(socket, &buffer, buffer.count, Int32(MSG_DONTWAIT))
        if count < 0 { return }
        received += buffer[..<count]
        if count > 0 && !received.contains(10) && received.count < DaemonReadiness.bytes_max { return }
        let line = String(decoding: received.prefix { $0 != 10 }, as: UTF8.self)
        switch DaemonReadiness(line: line) {
        case .ready(_, let lite, let api): outcome = .ready(liteAddress: lite, apiAddress: api)
        case .failed(let reason): outcome = .failed(reason)
        case nil: outcome = .failed("\(awaitEnd()) while it started\(lastWords)")
        }
    }

    /// How the daemon ended, for an error. Waits for that: it has closed its socket, so it has ended or is about to.
    private func awaitEnd() -> String {
        guard let status = reap(until: .after(.seconds(1))) else { return "it stopped talking" }
        let signal = status & 0x7f
        return signal == 0 ? "it ended with status \(status >> 8 & 0xff)" : "it was killed by signal \(signal)"
    }

    /// The end of the log, for an error.
    private var lastWords: String {
        Files.lastLine(log).map { "; its last line: \($0)" } ?? "; its log \(log) is empty"
    }

    /// The process by number and start time; nil when it has ended.
    var identity: ProcessIdentity? { ProcessIdentity(of: pid) }

    /// Stops daemons that this command started: SIGTERM, SIGKILL after the limit. Returns when all have ended.
    static func stop(_ daemons: [DaemonProcess], within limit: Duration) {
        for daemon in daemons where !daemon.isReaped { kill(daemon.pid, SIGTERM) }
        let deadline = Deadline.after(limit)
        for daemon in daemons where !daemon.isReaped && daemon.reap(until: deadline) == nil {
            kill(daemon.pid, SIGKILL)
            _ = daemon.reap(until: nil)
        }
    }

    /// Waits for the end of a daemon that has not been waited for; nil if it runs on at the deadline.
    private func reap(until deadline: Deadline?) -> Int32? {
        if let deadline {
            // A child stays until it is waited for, so its descriptor cannot mean another process.
            let descriptor = lego_pidfd_open(pid)
            guard descriptor >= 0 else { return nil }
            defer { close(descriptor) }
            var watched = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            while poll(&watched, 1, deadline.pollMilliseconds) < 0 && errno == EINTR {}
            if watched.revents == 0 { return nil }
        }
        var status: Int32 = 0
        while waitpid(pid, &status, 0) < 0 && errno == EINTR {}
        isReaped = true
        return status
    }
}

/// What this process was started with, as `ByteText`.
enum Variables {
    /// The environment.
    static var own: [String] {
        var texts: [String] = []
        var next = environ
        while let text = next.pointee {
            texts.append(ByteText.text(cString: text))
            next += 1
        }
        return texts
    }

    /// The bytes of a `ByteText` for the kernel; free(3) is the caller's.
    static func cString(_ text: String) -> UnsafeMutablePointer<CChar>? {
        (ByteText.bytes(of: text) + [0]).withUnsafeBytes { strdup($0.baseAddress!.assumingMemoryBound(to: CChar.self)) }
    }

    /// Variables with others, `NAME=VALUE` of `--env`, in place of theirs.
    static func merge(_ texts: [String], with others: [String]) throws(CommandFailure) -> [String] {
        var texts = texts
        for variable in others {
            guard let equals = variable.firstIndex(of: "="), equals > variable.startIndex else {
                throw .usage("--env is \"\(Output.printable(variable))\"; allowed: NAME=VALUE")
            }
            let name = variable[...equals]
            texts.removeAll { $0.hasPrefix(name) }
            texts.append(variable)
        }
        return texts
    }

    /// The command line without the command's name.
    static var arguments: [String] {
        (1..<max(1, Int(CommandLine.argc))).compactMap { index in
            CommandLine.unsafeArgv[index].map { ByteText.text(cString: $0) }
        }
    }
}
