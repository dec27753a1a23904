import CLinux
import Glibc
import Kernel
import Wire

/// The thread of a process that joined a program: carries its streams and its end to its client. It ends with the
/// process, with the program, or some time after its client has gone.
struct JoinedLoop: ~Copyable {
    private enum Phase { case waiting, running, draining, done }

    private let joined: JoinedProgram
    private let process: JoinedProcess
    private var phase = Phase.waiting
    private var client: AttachClient?
    private var input: InputRelay
    private var output: OutputRelay
    private var error: OutputRelay
    private var terminal: TerminalControl
    private var deadline: Deadline
    private var exit: AttachExit?
    private var isExitQueued = false
    private var isKilled = false

    init(
        _ joined: JoinedProgram, _ process: consuming JoinedProcess, streams: consuming DaemonStreams,
        attachLimit: Duration
    ) {
        self.joined = joined
        self.process = process
        deadline = .after(attachLimit)
        terminal = TerminalControl(streams.terminal.take())
        input = InputRelay(streams.input.take())
        output = OutputRelay(.standardOutput, streams.output.take())
        error = OutputRelay(.standardError, streams.error.take())
    }

    /// Runs until nothing is left to do for the client.
    mutating func run() {
        var watched = [pollfd](repeating: Self.nothing, count: 6)
        takeInbox()
        while phase != .done {
            watch(&watched)
            if poll(&watched, nfds_t(watched.count), deadline.pollMilliseconds) >= 0 { serve(watched) }
            if deadline.hasPassed { passDeadline() }
            if phase == .draining { drain() }
        }
        if exit == nil { kill() }
        joined.ended()
    }

    private static let nothing = pollfd(fd: -1, events: 0, revents: 0)

    private borrowing func watch(_ watched: inout [pollfd]) {
        watched[0] = pollfd(fd: joined.wake.raw, events: Int16(POLLIN), revents: 0)
        watched[1] = pollfd(fd: exit == nil ? process.socket.raw : -1, events: Int16(POLLIN), revents: 0)
        watched[2] = input.poll
        switch client {
        case .some(let client):
            watched[3] = client.poll
            watched[4] = output.poll(for: client)
            watched[5] = error.poll(for: client)
        case .none: for index in 3...5 { watched[index] = Self.nothing }
        }
    }

    private mutating func serve(_ watched: [pollfd]) {
        if watched[0].revents != 0, joined.wake.drain() { takeInbox() }
        if watched[2].revents != 0 { input.write() }
        serveClient(watched[3].revents, watched[4].revents, watched[5].revents)
        if watched[1].revents != 0, let end = process.nextEnd() { ended(end) }
    }

    private mutating func takeInbox() {
        var inbox = joined.takeInbox()
        if let socket = inbox.client.take(), !hasClient {
            client = AttachClient(socket)
            deadline = .never
            if phase == .waiting { phase = exit == nil ? .running : .draining }
        }
        if inbox.isLeaving { deadline = min(deadline, .after(ProgramLoop.shutdownLimit)) }
    }

    private var hasClient: Bool {
        switch client {
        case .some: true
        case .none: false
        }
    }

    // MARK: The client

    private mutating func serveClient(_ socketEvents: Int16, _ outputEvents: Int16, _ errorEvents: Int16) {
        guard var client = client.take() else { return }
        client.serve(socketEvents)
        client.takeFrames { take($0, $1) }
        if outputEvents != 0 { output.serve(&client, isLast: false) }
        if errorEvents != 0 { error.serve(&client, isLast: false) }
        let credit = input.takeCredit()
        if credit > 0 { client.append(.inputCredit, withUnsafeBytes(of: UInt32(credit).littleEndian) { Array($0) }) }
        client.flush()
        if client.isConnected { self.client = consume client } else { clientLost() }
    }

    private mutating func take(_ kind: AttachFrame, _ payload: UnsafeRawBufferPointer) -> Bool {
        switch kind {
        case .standardInput: return input.append(payload)
        case .signal where payload.count == 1: signal(Int32(payload[0]))
        case .windowSize: return terminal.resize(payload)
        case .closed where payload.count == 1 && payload[0] == 1: output.close()
        case .closed where payload.count == 1 && payload[0] == 2: error.close()
        default: return false
        }
        return true
    }

    private mutating func signal(_ number: Int32) {
        guard (1...64).contains(number), exit == nil else { return }
        _ = process.signal(number, group: ProgramLoop.isTerminals(number))
    }

    /// As when a terminal vanishes.
    private mutating func clientLost() {
        signal(SIGHUP)
        signal(SIGCONT)
        input.close()
        output.close()
        error.close()
        terminal.close()
        deadline = .after(ProgramLoop.hangupLimit)
        if exit != nil { phase = .done }
    }

    // MARK: The end

    private mutating func kill() {
        if isKilled { return }
        isKilled = true
        _ = process.signal(SIGKILL, group: true)
    }

    private mutating func passDeadline() {
        deadline = .never
        phase = .done
    }

    private mutating func ended(_ end: JoinedProcess.End) {
        switch end {
        case .programEnded:
            exit = AttachExit(
                state: .exited, exitStatus: -1, signal: UInt32(SIGKILL),
                reason: "the program has ended, and with it what had joined it")
        case .status(let status) where status & 0x7f == 0:
            exit = AttachExit(state: .exited, exitStatus: status >> 8 & 0xff, signal: 0, reason: "")
        case .status(let status):
            exit = AttachExit(state: .exited, exitStatus: -1, signal: UInt32(status & 0x7f), reason: "")
        }
        input.close()
        if hasClient { phase = .draining } else if phase == .running { phase = .done }
    }

    /// Carries what the pipes still hold, then tells how it ended.
    private mutating func drain() {
        guard var client = client.take(), let exit else {
            phase = .done
            return
        }
        output.serve(&client, isLast: true)
        error.serve(&client, isLast: true)
        if output.pipeDescriptor == nil, error.pipeDescriptor == nil, !isExitQueued {
            isExitQueued = true
            client.append(.exit, exit.payload)
        }
        client.flush()
        if !client.isConnected || (isExitQueued && client.isFlushed) { phase = .done }
        self.client = consume client
    }
}
