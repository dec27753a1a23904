import CLinux
import Glibc
import Kernel
import Wire

/// The user's terminal on standard input, while a program's terminal stands behind it: every key goes to the program.
/// Given back as it was when the owner says so, and whenever the process ends or stops by a signal that it can notice.
struct RawTerminal: ~Copyable {
    private let saved: termios
    private var isRaw = false

    /// The size of the terminal on standard input; nil when there is none.
    static var size: TerminalSize? {
        if isatty(0) == 0 { return nil }
        var window = winsize()
        if ioctl(0, UInt(TIOCGWINSZ), &window) < 0 { return TerminalSize(rows: 0, columns: 0) }
        return TerminalSize(rows: window.ws_row, columns: window.ws_col)
    }

    /// nil when standard input is no terminal.
    init?() {
        var now = termios()
        if tcgetattr(0, &now) < 0 { return nil }
        saved = now
    }

    deinit { Self.set(saved) }

    /// Only in the foreground: the terminal of a job in the background is somebody else's.
    mutating func enter() {
        if tcgetpgrp(0) != getpgrp() { return }
        var raw = saved
        cfmakeraw(&raw)
        Self.set(raw)
        isRaw = true
    }

    mutating func leave() {
        if !isRaw { return }
        Self.set(saved)
        isRaw = false
    }

    /// A background process that sets a terminal is stopped, unless it ignores what stops it.
    private static func set(_ mode: termios) {
        var mode = mode
        let former = signal(SIGTTOU, SIG_IGN)
        while tcsetattr(0, TCSADRAIN, &mode) < 0, errno == EINTR {}
        signal(SIGTTOU, former)
    }
}
