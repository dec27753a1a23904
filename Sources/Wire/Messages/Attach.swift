// legoctl speaks to a processor over a stream connection: the standard streams of one program.

/// A frame: 1 byte kind, 4 bytes little-endian length, the payload. The first frame each way is `hello` / `welcome`.
public enum AttachFrame: UInt8, Sendable {
    /// legoctl: 8 bytes program, 16 bytes token, 1 byte mode (`AttachMode`). Must come within 5 s.
    case hello = 1
    /// Processor: accepted, no payload.
    case welcome = 2
    /// Processor: refused; the payload is the reason.
    case refused = 3
    /// legoctl: bytes for standard input; an empty payload is its end. Never more bytes than the credit allows, so that
    /// a program that does not read its input holds up no `signal` frame behind it.
    case standardInput = 4
    /// Processor: bytes of standard output; an empty payload is its end.
    case standardOutput = 5
    /// Processor: bytes of standard error; an empty payload is its end.
    case standardError = 6
    /// legoctl: 1 byte, a signal. Those that a terminal sends to its foreground group (INT, QUIT, TSTP, CONT, HUP,
    /// WINCH) reach the process group of the program's first process, all others that process alone.
    case signal = 7
    /// Processor, last: `AttachExit`.
    case exit = 8
    /// legoctl: nobody reads standard output (payload 1) or standard error (payload 2) any more.
    case closed = 9
    /// Processor: 4 bytes little-endian; legoctl may send so many more bytes of standard input, beyond the first
    /// `inputCredit_bytes` and what earlier frames of this kind granted.
    case inputCredit = 10
    /// legoctl: `TerminalSize`, the new size of the user's terminal.
    case windowSize = 11
    /// legoctl, last: the user leaves the program's terminal, and the program goes on without; no payload. The processor
    /// ends the connection.
    case detach = 12

    public static let headerBytes = 5
    public static let payloadBytes_max = 64 << 10
    /// Bytes of standard input that may be sent before the first `inputCredit`.
    public static let inputCredit_bytes = 64 << 10
}

/// What an attached client wants.
public enum AttachMode: UInt8, Sendable {
    /// The program's live streams; one client per program.
    case streams = 0
    /// What a detached program has written so far, then the end.
    case logs = 1
    /// The streams of a process that joined a program (`ManagerProcessorJoin`); the token is that process's.
    case joined = 2
}

/// How a program ended.
public struct AttachExit: WireMessage, Equatable {
    public var state: ProcessorManagerReport.State
    public var exitStatus: Int32
    public var signal: UInt32
    public var reason: String

    public init(state: ProcessorManagerReport.State, exitStatus: Int32, signal: UInt32, reason: String) {
        self.state = state
        self.exitStatus = exitStatus
        self.signal = signal
        self.reason = reason
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(state.rawValue)
        writer.write(exitStatus)
        writer.write(signal)
        writer.write(reason)
    }

    public init?(from reader: inout WireReader) {
        guard let state = ProcessorManagerReport.State(rawValue: reader.read()) else { return nil }
        self.state = state
        exitStatus = reader.read()
        signal = reader.read()
        reason = reader.readString(max: WireLimit.reason_max)
        if !reader.isValid { return nil }
    }
}
