import Foundation
import Glibc
import Kernel

/// A child process in a session of its own on a pseudo-terminal, whose other end the test holds, as a person would.
/// Killed when nobody holds it any more.
final class TerminalCommand {
    let pid: pid_t
    private let master: Int32
    private(set) var screen = ""
    private var isReaped = false

    init(_ path: String, _ arguments: [String], rows: UInt16, columns: UInt16, environment: [String: String] = [:])
        throws
    {
        master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK)
        if master < 0 { throw KernelError("open /dev/ptmx") }
        // TIOCSPTLCK and TIOCGPTN, macros that do not import.
        var isLocked: Int32 = 0
        var number: Int32 = 0
        if ioctl(master, 0x4004_5431, &isLocked) < 0 || ioctl(master, 0x8004_5430, &number) < 0 {
            throw KernelError("ioctl TIOCGPTN")
        }
        let name = "/dev/pts/\(number)"
        Self.resize(master, rows, columns)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        var all = sigset_t()
        sigemptyset(&none)
        sigfillset(&all)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setsigdefault(&attributes, &all)
        // POSIX_SPAWN_SETSID; the first terminal that a session's leader opens becomes its controlling one.
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | 0x80))
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, name, O_RDWR, 0)
        posix_spawn_file_actions_adddup2(&actions, 0, 1)
        posix_spawn_file_actions_adddup2(&actions, 0, 2)
        let words = ["/usr/bin/env", "-C", "/", path] + arguments
        let variables = ["PATH=/usr/local/bin:/usr/bin:/bin", "TERM=xterm", "LANG=C", "SWIFT_BACKTRACE=enable=no"]
        var argv: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
        var envp: [UnsafeMutablePointer<CChar>?] =
            (variables + environment.map { "\($0.key)=\($0.value)" }).map { strdup($0) } + [nil]
        defer { for word in argv + envp { free(word) } }
        var pid = pid_t()
        let result = posix_spawn(&pid, words[0], &actions, &attributes, &argv, &envp)
        if result != 0 { throw KernelError("posix_spawn \(path)", result) }
        self.pid = pid
    }

    deinit {
        if !isReaped {
            kill(pid, SIGKILL)
            var status: Int32 = 0
            waitpid(pid, &status, 0)
        }
        close(master)
    }

    private static func resize(_ terminal: Int32, _ rows: UInt16, _ columns: UInt16) {
        var size = winsize()
        size.ws_row = rows
        size.ws_col = columns
        _ = ioctl(terminal, UInt(TIOCSWINSZ), &size)
    }

    /// As when a window is dragged: the kernel tells the foreground group.
    func resize(rows: UInt16, columns: UInt16) { Self.resize(master, rows, columns) }

    /// What decides how the terminal treats keys and output.
    var mode: [UInt32] {
        var mode = termios()
        if tcgetattr(master, &mode) < 0 { return [] }
        return [mode.c_iflag, mode.c_oflag, mode.c_cflag, mode.c_lflag]
    }

    func type(_ text: String) {
        var bytes = Array(text.utf8)[...]
        while !bytes.isEmpty {
            let count = bytes.withUnsafeBytes { write(master, $0.baseAddress, $0.count) }
            if count > 0 { bytes = bytes.dropFirst(count) } else if errno != EAGAIN && errno != EINTR { return }
        }
    }

    /// Reads until `text` has been shown since the last such wait; answers whether it was.
    func shows(_ text: String, within limit: Duration = .seconds(20)) -> Bool {
        let deadline = Deadline.after(limit)
        while true {
            if let found = screen.range(of: text) {
                screen = String(screen[found.upperBound...])
                return true
            }
            if !read(until: deadline) { return false }
        }
    }

    private func read(until deadline: Deadline) -> Bool {
        var watched = pollfd(fd: master, events: Int16(POLLIN), revents: 0)
        if poll(&watched, 1, deadline.pollMilliseconds) <= 0 { return false }
        var buffer = [UInt8](repeating: 0, count: 16 << 10)
        let count = Glibc.read(master, &buffer, buffer.count)
        if count < 0 { return errno == EAGAIN || errno == EINTR }
        screen += String(decoding: buffer[..<count], as: UTF8.self)
        return count > 0
    }

    /// Waits for the end, reading on; the status as a shell counts, or nil when it does not end in time.
    func finish(within limit: Duration = .seconds(20)) -> Int32? {
        let deadline = Deadline.after(limit)
        var status: Int32 = 0
        while true {
            if waitpid(pid, &status, WNOHANG) == pid { break }
            if deadline.hasPassed { return nil }
            _ = read(until: min(deadline, .after(.milliseconds(20))))
        }
        isReaped = true
        while read(until: .after(.milliseconds(0))) {}
        return status & 0x7f == 0 ? status >> 8 & 0xff : 128 + (status & 0x7f)
    }
}
