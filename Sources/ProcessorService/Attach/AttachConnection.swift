import Glibc
import Kernel
import Wire

/// A connection until it is handed over: its `hello`, then a refusal or a log. Owned by the server's thread.
final class AttachConnection {
    private static let helloBytes = AttachFrame.headerBytes + 25
    /// How long the other side of a log or of a refusal may take nothing.
    private static let stallLimit = Duration.seconds(30)

    private var socket: Descriptor?
    private var hello = ByteQueue(capacity: AttachConnection.helloBytes)
    private var outbound = ByteQueue(capacity: 2 * (AttachFrame.headerBytes + AttachFrame.payloadBytes_max))
    /// The log that is being sent, from where to where: what was there when it was asked for.
    private var log: Descriptor?
    private var logExtent: LogExtent?
    private var logOffset = 0
    private var logEnd = 0
    /// The next bytes of the log are the rest of a line whose beginning has been dropped.
    private var isInsideLine = false
    /// The last frames after the log.
    private var tail: [(AttachFrame, [UInt8])] = []
    /// `hello` has been read.
    private(set) var isAnswered = false
    /// When the connection is given up.
    private(set) var deadline = Deadline.after(AttachServer.helloLimit)

    init(_ socket: consuming Descriptor) {
        var on: Int32 = 1
        // A client on a host that has died is noticed, and small frames go out at once.
        for (option, value) in [(TCP_KEEPIDLE, Int32(10)), (TCP_KEEPINTVL, 5), (TCP_KEEPCNT, 3), (TCP_NODELAY, 1)] {
            var value = value
            setsockopt(socket.raw, Int32(IPPROTO_TCP), option, &value, socklen_t(MemoryLayout<Int32>.size))
        }
        setsockopt(socket.raw, SOL_SOCKET, SO_KEEPALIVE, &on, socklen_t(MemoryLayout<Int32>.size))
        self.socket = consume socket
    }

    /// Nothing is left to do here: handed over, answered, or ended by the other side.
    var isThrough: Bool { socket == nil }

    private var raw: Int32 {
        switch socket {
        case .some(let socket): socket.raw
        case .none: -1
        }
    }

    var poll: pollfd { pollfd(fd: raw, events: Int16(isAnswered ? POLLOUT : POLLIN), revents: 0) }

    func serve(_ find: (ProgramID) -> Program?) {
        if isAnswered { return send() }
        let space = hello.space()
        let count = recv(raw, space.baseAddress, space.count, Int32(MSG_DONTWAIT))
        if count <= 0 {
            if count == 0 || (errno != EAGAIN && errno != EINTR) { socket = nil }
            return
        }
        hello.fill(count)
        if hello.count < Self.helloBytes { return }
        isAnswered = true
        answer(find)
        if socket != nil { send() }
    }

    private func answer(_ find: (ProgramID) -> Program?) {
        deadline = .after(Self.stallLimit)
        var reader = WireReader(hello.bytes)
        let kind = AttachFrame(rawValue: reader.read())
        let length = reader.read(UInt32.self)
        let id = ProgramID(rawValue: reader.read())
        let token = reader.read(raw: 16)
        guard kind == .hello, length == 25, let mode = AttachMode(rawValue: reader.read()) else {
            return refuse("this is the attach port of a processor: connect with legoctl")
        }
        // The same words for both, so that nobody learns which programs exist.
        let unknown = "no program \(id) here, or a wrong token"
        guard let program = find(id) else { return refuse(unknown) }
        if mode == .joined {
            guard let joined = program.joined(token: token) else { return refuse(unknown) }
            return handOver { joined.attach($0) }
        }
        if !program.accepts(token: token) { return refuse(unknown) }
        if mode == .logs { return sendLog(of: program) }
        handOver { program.attach($0) }
    }

    private func handOver(to taker: (consuming Descriptor) -> String?) {
        guard let client = socket.take() else { return }
        var copy: Descriptor?
        do { copy = try client.duplicate() } catch { return }
        // The copy carries the refusal, and is closed when there is none.
        if let reason = taker(client) {
            socket = copy.take()
            refuse(reason)
        }
    }

    private func refuse(_ reason: String) {
        append(.refused, Array(reason.utf8))
    }

    private func sendLog(of program: Program) {
        guard program.isDetached else {
            return refuse("program \(program.id) has no log: its output went to whoever ran it")
        }
        let file = open(program.logPath, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
        if file < 0 {
            return refuse("the log of program \(program.id) cannot be read: \(KernelError.text(errno))")
        }
        let log = Descriptor(taking: file)
        var status = stat()
        if fstat(log.raw, &status) == 0 { logEnd = Int(status.st_size) }
        self.log = consume log
        logExtent = program.logExtent
        append(.welcome, [])
        let end =
            program.result
            ?? ProcessorManagerReport(
                program: program.id, state: .running, exitStatus: -1, signal: 0, reason: "",
                statistics: ProgramStatistics())
        tail = [(.standardOutput, []), (.exit, ProgramLoop.exitPayload(end))]
    }

    private func append(_ kind: AttachFrame, _ payload: [UInt8]) {
        let space = outbound.space()
        space[0] = kind.rawValue
        space.storeBytes(of: UInt32(payload.count).littleEndian, toByteOffset: 1, as: UInt32.self)
        outbound.fill(AttachFrame.headerBytes)
        payload.withUnsafeBytes { outbound.append($0) }
    }

    /// Sends what the socket takes now; reads on in the log when everything has gone.
    private func send() {
        while true {
            if outbound.isEmpty { readLog() }
            if outbound.isEmpty {
                // An orderly end: what was sent last arrives before it.
                shutdown(raw, Int32(SHUT_WR))
                socket = nil
                return
            }
            let bytes = outbound.bytes
            let count = Glibc.send(raw, bytes.baseAddress, bytes.count, Int32(MSG_DONTWAIT | MSG_NOSIGNAL))
            if count > 0 {
                outbound.removeFirst(count)
                deadline = .after(Self.stallLimit)
            } else if errno != EINTR {
                if errno != EAGAIN { socket = nil }
                return
            }
        }
    }

    private func readLog() {
        switch log {
        case .none: return
        case .some(let file): if readPortion(file.raw) { return }
        }
        log = nil
        for (kind, payload) in tail { append(kind, payload) }
        tail = []
    }

    /// Puts the next part of the log, or the word on what is missing, into the outbound buffer; false at the log's end.
    private func readPortion(_ file: Int32) -> Bool {
        while logOffset < logEnd {
            let space = outbound.space()
            let payload = UnsafeMutableRawBufferPointer(rebasing: space[AttachFrame.headerBytes...])
            let wanted = min(logEnd - logOffset, AttachFrame.payloadBytes_max)
            var count = pread(file, payload.baseAddress, wanted, off_t(logOffset))
            if count <= 0 { return false }
            // Looked at after the read: what was dropped meanwhile may have been read as zeros.
            if let start = logExtent?.start, start > logOffset {
                skip(to: start)
                return true
            }
            logOffset += count
            if isInsideLine, let end = payload[..<count].firstIndex(of: UInt8(ascii: "\n")) {
                isInsideLine = false
                count -= end + 1
                payload.copyMemory(from: UnsafeRawBufferPointer(rebasing: payload[(end + 1)..<(end + 1 + count)]))
                if count == 0 { continue }
            }
            space[0] = AttachFrame.standardOutput.rawValue
            space.storeBytes(of: UInt32(count).littleEndian, toByteOffset: 1, as: UInt32.self)
            outbound.fill(AttachFrame.headerBytes + count)
            return true
        }
        return false
    }

    private func skip(to start: Int) {
        let text = "legoctl: the first \(start) bytes of the output were dropped (processor.log-size)\n"
        logOffset = start
        logEnd = max(logEnd, start)
        isInsideLine = true
        append(.standardError, Array(text.utf8))
    }
}
