import CLinux
import Glibc
import Kernel
import Wire

/// Carries a program's standard streams and the user's signals over an attach connection until the program has ended.
/// One thread, one poll loop: every buffer is bounded, and who cannot take bytes holds up only those who make them.
struct StreamPump: ~Copyable {
    enum Outcome: Equatable {
        case ended(AttachExit)
        /// The processor's reason.
        case refused(String)
        /// The connection ended without a word.
        case endOfStream
        /// This process was told to end while it stood between two terminals.
        case interrupted(Int32)
        /// The user has left the program's terminal.
        case left
    }

    /// A frame's header and its longest payload.
    private static let frame_max = AttachFrame.headerBytes + AttachFrame.payloadBytes_max
    /// Room kept free for signals and `closed`, behind whatever input is queued.
    private static let controlReserve = 1 << 10
    private static let welcomeLimit = Duration.seconds(10)

    private let connection: AttachConnection
    private let signals: SignalDescriptor?
    private var input: Int32
    private var output = OutputSink(1)
    private var errors = OutputSink(2)
    private var inbound = StreamBuffer(capacity: 2 * frame_max)
    private var outbound = StreamBuffer(capacity: frame_max + 2 * controlReserve)
    /// Bytes of input that the processor takes.
    private var credit = AttachFrame.inputCredit_bytes
    private var isWelcome = false
    private var isConnected = true
    private var toldOutputClosed = false
    private var toldErrorsClosed = false
    private var end: AttachExit?
    /// The program has a terminal; this process's own is raw while input is carried to it.
    private let hasTerminal: Bool
    private var terminal: RawTerminal?
    private var isResized = false
    /// The size that the program's terminal has, as far as this process knows.
    private var sizeSent = RawTerminal.size
    /// What takes the user away from the terminal; nil where nothing does.
    private var leavingKeys: LeavingKeys?
    private var isLeaving = false
    private var interruption: Int32?

    /// Signals that are the program's, where it has no terminal, and those that are this process's own, where it has.
    static let forwarded = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGTSTP]
    static let ofTerminal = [SIGWINCH, SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGTSTP, SIGCONT]

    /// `input` nil: the program gets no input. `signals` are taken from the process and sent to the program; those that
    /// the process ignores stay ignored.
    init(
        _ connection: consuming AttachConnection, input: Int32?, signals: [Int32], hasTerminal: Bool = false,
        mayLeave: Bool = false
    ) throws(KernelError) {
        self.hasTerminal = hasTerminal
        leavingKeys = mayLeave ? LeavingKeys() : nil
        let forwarded = signals.filter { lego_signal_is_ignored($0) == 0 }
        self.signals = forwarded.isEmpty ? nil : try SignalDescriptor(forwarded)
        self.input = input ?? -1
        self.connection = connection
        outbound.append(self.connection.hello)
        terminal = hasTerminal ? RawTerminal() : nil
        terminal?.enter()
    }

    /// Runs until the program has ended and its output has been written.
    mutating func run() throws(CommandFailure) -> Outcome {
        let welcomeDeadline = Deadline.after(Self.welcomeLimit)
        while true {
            if let end, !output.isPending, !errors.isPending { return .ended(end) }
            if let interruption { return .interrupted(interruption) }
            if isResized, isWelcome, maySendControl { sendSize() }
            let isBlocked = output.isPending || errors.isPending
            if !isConnected && end == nil && !isBlocked { return isLeaving ? .left : .endOfStream }
            if !isWelcome && welcomeDeadline.hasPassed { throw CommandFailure("the processor does not answer") }
            var watched = [
                pollfd(fd: socketToWatch(isBlocked), events: socketEvents(isBlocked), revents: 0),
                pollfd(fd: mayReadInput ? input : -1, events: Int16(POLLIN), revents: 0),
                output.poll, errors.poll,
                pollfd(fd: maySendControl ? signalDescriptor : -1, events: Int16(POLLIN), revents: 0),
            ]
            let limit = isWelcome ? Deadline.never : welcomeDeadline
            if poll(&watched, nfds_t(watched.count), limit.pollMilliseconds) < 0 { continue }
            if watched[4].revents != 0, try forwardSignals() == .giveUp, let end { return .ended(end) }
            serveOutputs(watched[2].revents, watched[3].revents)
            if watched[1].revents != 0 { readInput() }
            if watched[0].revents != 0 { try serveSocket(watched[0].revents, isBlocked) }
            if !output.isPending && !errors.isPending, let outcome = try takeFrames() { return outcome }
        }
    }

    // MARK: What to wait for

    private var signalDescriptor: Int32 {
        switch signals {
        case .some(let signals): signals.raw
        case .none: -1
        }
    }

    private var maySendControl: Bool { outbound.room >= 64 }

    private var mayReadInput: Bool {
        isWelcome && isConnected && end == nil && !isLeaving && credit > 1
            && outbound.room > Self.controlReserve + AttachFrame.headerBytes + 1
    }

    /// A connection that has ended is always ready: it is looked at only when it can be served.
    private func socketToWatch(_ isBlocked: Bool) -> Int32 {
        isConnected && (!isBlocked || !outbound.isEmpty) ? connection.socket.raw : -1
    }

    private func socketEvents(_ isBlocked: Bool) -> Int16 {
        Int16((isBlocked ? 0 : POLLIN) | (outbound.isEmpty ? 0 : POLLOUT))
    }

    // MARK: The user's side

    private enum SignalEffect { case goOn, giveUp }

    /// Sends the user's signals on. After the program's end they end the wait for a slow reader.
    private mutating func forwardSignals() throws(CommandFailure) -> SignalEffect {
        while let number = nextSignal() {
            if end != nil { return .giveUp }
            if hasTerminal {
                noteOwnSignal(number)
                continue
            }
            outbound.append(FrameEncoder.frame(.signal, [UInt8(truncatingIfNeeded: number)]))
            if number == SIGTSTP {
                // The program first: this process cannot speak while it is stopped.
                sendWithin(.seconds(1))
                lego_signal_stop_self()
                outbound.append(FrameEncoder.frame(.signal, [UInt8(SIGCONT)]))
            }
            if !maySendControl { break }
        }
        return .goOn
    }

    /// A signal to a process that stands between two terminals concerns itself: keys go to the program as they are.
    private mutating func noteOwnSignal(_ number: Int32) {
        switch number {
        case SIGWINCH: isResized = true
        case SIGTSTP:
            terminal?.leave()
            lego_signal_stop_self()
            terminal?.enter()
            isResized = true
        case SIGCONT:
            // After a stop that could not be noticed, when a shell has had the terminal.
            terminal?.enter()
            isResized = true
        default: interruption = number
        }
    }

    /// The program shall learn the size of this terminal.
    mutating func noteResize() { isResized = true }

    private mutating func sendSize() {
        isResized = false
        guard let size = RawTerminal.size else { return }
        sizeSent = size
        outbound.append(
            FrameEncoder.frame(
                .windowSize,
                withUnsafeBytes(of: size.rows.littleEndian) { Array($0) }
                    + withUnsafeBytes(of: size.columns.littleEndian) { Array($0) }))
    }

    private func nextSignal() -> Int32? {
        switch signals {
        case .some(let signals): signals.next()
        case .none: nil
        }
    }

    /// Writes what is pending, and tells the program of readers that have gone.
    private mutating func serveOutputs(_ outputEvents: Int16, _ errorEvents: Int16) {
        let gone = Int16(POLLERR | POLLHUP | POLLNVAL)
        if outputEvents & gone != 0 { output.shut() }
        if errorEvents & gone != 0 { errors.shut() }
        if outputEvents & Int16(POLLOUT) != 0 { output.flush() }
        if errorEvents & Int16(POLLOUT) != 0 { errors.flush() }
        tellClosed()
    }

    private mutating func tellClosed() {
        if end != nil || !isWelcome || !maySendControl { return }
        if output.isClosed && !toldOutputClosed {
            toldOutputClosed = true
            outbound.append(FrameEncoder.frame(.closed, [1]))
        }
        if errors.isClosed && !toldErrorsClosed {
            toldErrorsClosed = true
            outbound.append(FrameEncoder.frame(.closed, [2]))
        }
    }

    /// Reads as much input as the credit and the buffer allow, straight into a frame.
    private mutating func readInput() {
        // A change is told once, by a signal; should that be lost, the next key tells. It goes before the key: at the next line
        // readline(3) sets the size that it has just read, and so would undo a change that came between the two.
        if hasTerminal && RawTerminal.size != sizeSent {
            sendSize()
            // It has taken some of the room.
            if !mayReadInput { return }
        }
        let header = AttachFrame.headerBytes
        let space = outbound.space()
        // Before keys there is room for one that was held back.
        let shift = leavingKeys == nil ? 0 : 1
        let room = min(credit, AttachFrame.payloadBytes_max, space.count - Self.controlReserve - header) - shift
        let count = read(input, space.baseAddress! + header + shift, room)
        if count < 0 && (errno == EAGAIN || errno == EINTR) { return }
        // An error, such as that of a terminal that was hung up, is the end of the input, too.
        var payload = max(0, count)
        if payload > 0, shift > 0 {
            payload = takeKeys(UnsafeMutableRawBufferPointer(rebasing: space[header...(header + payload)]))
            if payload == 0 { return tellLeaving() }
        }
        space[0] = AttachFrame.standardInput.rawValue
        space.storeBytes(of: UInt32(payload).littleEndian, toByteOffset: 1, as: UInt32.self)
        outbound.fill(header + payload)
        credit -= payload
        if payload == 0 { input = -1 }
        tellLeaving()
    }

    /// Behind what was typed before, in the room that is kept free for such frames.
    private mutating func tellLeaving() {
        if isLeaving { outbound.append(FrameEncoder.frame(.detach, [])) }
    }

    /// Puts what is to be sent of the keys, which begin at the second byte, to the beginning; answers how many they are.
    private mutating func takeKeys(_ keys: UnsafeMutableRawBufferPointer) -> Int {
        guard let taken = leavingKeys?.take(keys) else { return 0 }
        isLeaving = taken.leaves
        return taken.count
    }

    // MARK: The processor's side

    private mutating func serveSocket(_ events: Int16, _ isBlocked: Bool) throws(CommandFailure) {
        if events & Int16(POLLOUT | POLLERR | POLLHUP) != 0 { sendOutbound() }
        if isBlocked { return }
        let space = inbound.space()
        if space.isEmpty { return }
        let count = recv(connection.socket.raw, space.baseAddress, space.count, Int32(MSG_DONTWAIT))
        if count > 0 {
            inbound.fill(count)
        } else if count == 0 || (errno != EAGAIN && errno != EINTR) {
            isConnected = false
        }
    }

    /// Sends what goes out without waiting.
    private mutating func sendOutbound() {
        while !outbound.isEmpty {
            let bytes = outbound.bytes
            let count = send(
                connection.socket.raw, bytes.baseAddress, bytes.count, Int32(MSG_NOSIGNAL | MSG_DONTWAIT))
            if count > 0 {
                outbound.removeFirst(count)
            } else if errno != EINTR {
                // The end is noticed where it is read: what the processor said last still counts.
                if errno != EAGAIN { outbound.removeFirst(outbound.count) }
                return
            }
        }
    }

    private mutating func sendWithin(_ limit: Duration) {
        let deadline = Deadline.after(limit)
        sendOutbound()
        while !outbound.isEmpty && !deadline.hasPassed {
            var watched = pollfd(fd: connection.socket.raw, events: Int16(POLLOUT), revents: 0)
            if poll(&watched, 1, deadline.pollMilliseconds) > 0 { sendOutbound() }
        }
    }

    /// Takes complete frames until an output has to wait.
    private mutating func takeFrames() throws(CommandFailure) -> Outcome? {
        let header = AttachFrame.headerBytes
        while end == nil && inbound.count >= header {
            let bytes = inbound.bytes
            let length = Int(UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 1, as: UInt32.self)))
            guard let kind = AttachFrame(rawValue: bytes[0]), length <= AttachFrame.payloadBytes_max else {
                throw Self.violation
            }
            if inbound.count < header + length { break }
            let payload = UnsafeRawBufferPointer(rebasing: bytes[header..<header + length])
            let outcome = try take(kind, payload)
            inbound.removeFirst(header + length)
            if let outcome { return outcome }
            if output.isPending || errors.isPending { break }
        }
        tellClosed()
        return nil
    }

    private mutating func take(_ kind: AttachFrame, _ payload: UnsafeRawBufferPointer) throws(CommandFailure)
        -> Outcome?
    {
        if !isWelcome {
            switch kind {
            case .welcome: isWelcome = true
            case .refused: return .refused(String(decoding: payload, as: UTF8.self))
            default: throw Self.violation
            }
            return nil
        }
        switch kind {
        case .standardOutput: _ = output.write(payload)
        case .standardError: _ = errors.write(payload)
        case .inputCredit:
            guard payload.count == 4 else { throw Self.violation }
            let granted = Int(UInt32(littleEndian: payload.loadUnaligned(as: UInt32.self)))
            credit = min(credit + granted, 1 << 30)
        case .exit:
            guard let exit = AttachExit(decoding: payload) else { throw Self.violation }
            end = exit
        case .hello, .welcome, .refused, .standardInput, .signal, .closed, .windowSize, .detach:
            throw Self.violation
        }
        return nil
    }

    private static var violation: CommandFailure {
        CommandFailure("the processor sends something that is not understood; are legoctl and the rack of one version?")
    }
}
