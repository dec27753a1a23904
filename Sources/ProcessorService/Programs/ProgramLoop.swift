import CLinux
import Glibc
import Kernel
import Logging
import Wire

/// The thread of one program: waits for its client, carries its streams, notices its end and reports it. One poll loop;
/// only what follows the last process's end (giving the memory back) may take a moment.
struct ProgramLoop: ~Copyable {
    /// How long a program whose client has gone may go on after SIGHUP, before SIGKILL.
    static let hangupLimit = Duration.seconds(2)
    /// How long a program may go on after SIGTERM when the processor is shut down, before SIGKILL.
    static let shutdownLimit = Duration.seconds(1)
    /// How long the end of a killed program may take before its memory engine lets go of it: a process that the engine
    /// traces is not gone before its tracer is.
    static let traceLimit = Duration.seconds(1)
    /// How long it may take from then on before its guardian is killed, too.
    static let killLimit = Duration.seconds(10)
    /// How long the client is kept waiting for its `exit` frame so that the manager learns of the end first.
    static let reportLimit = Duration.seconds(1)

    /// Reads of 64 KiB that empty any pipe: 1 MiB is the most that a program can make of its own.
    private static let pipeReads_max = 16

    private enum Phase { case waiting, running, draining, done }

    private let program: Program
    private let life: Program.Life
    private let report: @Sendable (ProcessorManagerReport) -> Void
    private let logger: Logger
    private var phase = Phase.waiting
    private var client: AttachClient?
    private var input: InputRelay
    private var output: OutputRelay
    private var error: OutputRelay
    private var log: LogRelay
    private var terminal: TerminalControl
    /// What to do when it passes depends on the phase and on what was tried last: see `passDeadline`.
    private var deadline: Deadline
    private let attachLimit: Duration
    /// The cause that this thread has acted upon.
    private var cause: EndCause?
    private var isKilled = false
    private var isMemoryStopped = false
    /// The manager knows of the end, or has been waited for long enough.
    private var isReportSettled = false
    private var isExitQueued = false
    /// The client leaves the terminal; the program goes on.
    private var isLeft = false
    /// A client has come to a terminal that another one has left, and has not said yet how large its own is.
    private var isReturn = false
    /// The processor is shut down: a client that does not take its output is not waited for.
    private var isLeaving = false

    /// The program waits for `attachLimit` for the client that will attach to its streams. `report` takes the report of
    /// the end and comes back at once.
    init(
        _ program: Program, _ life: Program.Life, streams: consuming DaemonStreams, attachLimit: Duration,
        logBytes_max: Int, logger: Logger,
        report: @escaping @Sendable (ProcessorManagerReport) -> Void
    ) {
        self.program = program
        self.life = life
        self.report = report
        self.logger = logger
        self.attachLimit = attachLimit
        deadline = .after(attachLimit)
        input = InputRelay(streams.input.take())
        terminal = TerminalControl(streams.terminal.take())
        let logFile = streams.log.take()
        log = LogRelay(
            pipe: logFile == nil ? nil : streams.output.take(), file: logFile, extent: program.logExtent,
            bytes_max: logBytes_max)
        output = OutputRelay(.standardOutput, streams.output.take())
        error = OutputRelay(.standardError, streams.error.take())
    }

    /// Runs until nothing of the program is left but its result.
    mutating func run() {
        if program.isDetached { release() }
        takeInbox()
        var watched = [pollfd](repeating: Self.nothing, count: 7)
        while phase != .done {
            watch(&watched)
            if poll(&watched, nfds_t(watched.count), deadline.pollMilliseconds) >= 0 { serve(watched) }
            if deadline.hasPassed { passDeadline() }
            if phase == .draining { drain() }
        }
        program.leave()
    }

    private static let nothing = pollfd(fd: -1, events: 0, revents: 0)

    private borrowing func watch(_ watched: inout [pollfd]) {
        watched[0] = pollfd(fd: life.wake.raw, events: Int16(POLLIN), revents: 0)
        let control = phase == .draining ? -1 : life.sandbox.controlSocket
        watched[1] = pollfd(fd: control, events: Int16(POLLIN), revents: 0)
        watched[2] = input.poll
        watched[3] = log.poll
        switch client {
        case .some(let client):
            watched[4] = client.poll
            watched[5] = output.poll(for: client)
            watched[6] = error.poll(for: client)
        case .none:
            for index in 4...6 { watched[index] = Self.nothing }
            // A program that nobody looks at shall not wait for a reader.
            if phase == .running && program.hasTerminal && !isKilled { watched[5] = output.pollToDiscard }
        }
    }

    private mutating func serve(_ watched: [pollfd]) {
        if watched[0].revents != 0, life.wake.drain() { takeInbox() }
        if watched[2].revents != 0 { input.write() }
        if watched[3].revents != 0 { _ = log.serve() }
        serveClient(watched[4].revents, watched[5].revents, watched[6].revents)
        if watched[1].revents != 0, let end = life.sandbox.nextEnd() {
            if end == .beginning { awaitEnd() } else { ended(end) }
        }
    }

    // MARK: The beginning

    private mutating func release() {
        phase = .running
        deadline = .never
        // A false answer means that the program is dead; the control socket tells.
        _ = life.sandbox.release()
    }

    private mutating func takeInbox() {
        var inbox = program.takeInbox()
        if let socket = inbox.client.take() {
            if phase == .waiting {
                client = AttachClient(socket)
                release()
            } else if phase == .running && !hasClient && !isKilled {
                client = AttachClient(socket)
                input.startAnew()
                isReturn = true
            }
        }
        isReportSettled = isReportSettled || inbox.isReportAcknowledged
        if inbox.isKillWanted, phase != .draining { kill() }
        guard let cause = inbox.cause else { return }
        if phase != .draining, self.cause == nil { act(on: cause) }
        if phase == .draining, !isLeaving, case .shutdown = cause {
            isLeaving = true
            isReportSettled = true
            deadline = .after(Self.shutdownLimit)
        }
    }

    // MARK: The client

    private mutating func serveClient(_ socketEvents: Int16, _ outputEvents: Int16, _ errorEvents: Int16) {
        guard var client = client.take() else {
            if outputEvents != 0 { output.discard() }
            return
        }
        client.serve(socketEvents)
        client.takeFrames { take($0, $1) }
        if isLeft {
            isLeft = false
            program.clientLeft()
            return
        }
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
        case .windowSize where isReturn:
            isReturn = false
            return terminal.redraw(payload)
        case .windowSize: return terminal.resize(payload)
        // Of a program that has ended it is told the end.
        case .detach where program.hasTerminal: isLeft = phase == .running
        case .closed where payload.count == 1 && payload[0] == 1: output.close()
        case .closed where payload.count == 1 && payload[0] == 2: error.close()
        default: return false
        }
        return true
    }

    /// A signal of the user.
    private mutating func signal(_ number: Int32) {
        guard (1...64).contains(number) else { return }
        if number == SIGKILL { return kill() }
        _ = life.sandbox.signal(number, group: Self.isTerminals(number))
    }

    /// As when a terminal vanishes: SIGHUP, and no more streams.
    private mutating func clientLost() {
        let hangsUp = phase != .draining && !isKilled && cause == nil
        if hangsUp {
            cause = .refused("the client that was attached has gone")
            // Before the end of its input, at which it may end by itself.
            signal(SIGHUP)
            signal(SIGCONT)
            deadline = .after(Self.hangupLimit)
        }
        input.close()
        output.close()
        error.close()
        terminal.close()
        if phase == .draining { phase = .done }
    }

    // MARK: The end

    private mutating func act(on cause: EndCause) {
        self.cause = cause
        logger.info("ending program", metadata: ["program": "\(program.id)", "reason": "\(cause.reason)"])
        if case .shutdown = cause, phase == .running, !isKilled {
            _ = life.sandbox.signal(SIGTERM, group: true)
            _ = life.sandbox.signal(SIGCONT, group: true)
            deadline = .after(Self.shutdownLimit)
        } else {
            kill()
        }
    }

    private mutating func kill() {
        if isKilled { return }
        life.sandbox.kill()
        awaitEnd()
    }

    /// Every process of the program is dead or dying.
    private mutating func awaitEnd() {
        if isKilled { return }
        isKilled = true
        deadline = .after(Self.traceLimit)
    }

    private mutating func stopMemory() {
        if isMemoryStopped { return }
        isMemoryStopped = true
        life.memory.stop()
    }

    private mutating func passDeadline() {
        deadline = .never
        switch phase {
        case .waiting where !isKilled:
            let seconds = attachLimit.components.seconds
            act(on: .refused("nobody attached to the program's streams within \(seconds) s"))
        case .waiting, .running:
            if !isKilled { return kill() }
            if !isMemoryStopped {
                stopMemory()
                deadline = .after(Self.killLimit)
                return
            }
            // The guardian could not: some process is in a wait that the kernel does not interrupt. It dies when that
            // ends.
            logger.error("program does not end", metadata: ["program": "\(program.id)"])
            ended(.guardianLost)
        case .draining where isReportSettled: phase = .done
        case .draining: isReportSettled = true
        case .done: break
        }
    }

    /// The last process of the program is gone.
    private mutating func ended(_ end: Sandbox.End) {
        // A guardian that is there yet takes the program's mounts down, for which nobody waits: it is reaped when the client
        // knows of the end (`Program.leave`).
        if end == .guardianLost { life.sandbox.reap() }
        stopMemory()
        // More than a pipe holds can only come from outside, where the program passed it on.
        for _ in 0..<Self.pipeReads_max where log.serve() {}
        if let failure = log.failure {
            logger.error("log is incomplete", metadata: ["program": "\(program.id)", "reason": "\(failure)"])
        }
        let result = Self.result(of: program.id, end, cause, life.memory.statistics())
        program.finish(result)
        report(result)
        logger.info(
            "program ended",
            metadata: [
                "program": "\(program.id)", "status": "\(result.exitStatus)", "signal": "\(result.signal)",
                "reason": "\(result.reason)",
            ])
        input.close()
        phase = .draining
        deadline = .after(Self.reportLimit)
        if !hasClient { phase = .done }
    }

    private var hasClient: Bool {
        switch client {
        case .some: true
        case .none: false
        }
    }

    /// Carries what the pipes still hold, then tells the client how the program ended. Nothing more can come into the
    /// pipes: whoever held their other ends inside is dead.
    private mutating func drain() {
        guard var client = client.take() else {
            phase = .done
            return
        }
        output.serve(&client, isLast: true)
        error.serve(&client, isLast: true)
        let isDrained = output.pipeDescriptor == nil && error.pipeDescriptor == nil
        if isDrained, isReportSettled, !isExitQueued, let result = program.result {
            isExitQueued = true
            if !isLeaving { deadline = .never }
            client.append(.exit, Self.exitPayload(result))
        }
        client.flush()
        if !client.isConnected || (isExitQueued && client.isFlushed) { phase = .done }
        self.client = consume client
    }
}
