import Glibc
import Kernel
import Wire

/// The master of a program's terminal, as far as it is not a stream. Owned by the program's thread.
struct TerminalControl: ~Copyable {
    private var master: Descriptor?

    /// nil: the program has none.
    init(_ master: consuming Descriptor?) { self.master = master }

    /// Takes a `windowSize` frame; the kernel tells the foreground group. False when it is not understood.
    func resize(_ payload: UnsafeRawBufferPointer) -> Bool {
        guard let size = TerminalSize(decoding: payload) else { return false }
        set(size)
        return true
    }

    /// As `resize`, for a user who comes to a screen that is drawn already: the foreground group is told also when the size
    /// is what it was, so that it draws again.
    func redraw(_ payload: UnsafeRawBufferPointer) -> Bool {
        guard let size = TerminalSize(decoding: payload) else { return false }
        set(TerminalSize(rows: size.rows == 1 ? 2 : size.rows &- 1, columns: size.columns))
        set(size)
        return true
    }

    private func set(_ size: TerminalSize) {
        switch master {
        case .some(let master):
            var window = winsize()
            window.ws_row = size.rows
            window.ws_col = size.columns
            _ = ioctl(master.raw, UInt(TIOCSWINSZ), &window)
        case .none: break
        }
    }

    /// With the last of the master's descriptors the terminal hangs up.
    mutating func close() { master = nil }
}
