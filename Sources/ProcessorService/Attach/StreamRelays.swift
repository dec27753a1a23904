import Glibc
import Kernel
import Wire

/// Carries standard input from frames to the program's pipe. Owned by the program's thread.
struct InputRelay: ~Copyable {
    /// Credit is given back in pieces of at least this size, or when nothing is queued.
    private static let creditBytes_min = 16 << 10

    private var pipe: Descriptor?
    private var queue = ByteQueue(capacity: AttachFrame.inputCredit_bytes)
    private var isEnding = false
    /// Bytes that the program's pipe has taken and the client has no credit for yet.
    private var consumed = 0

    /// Takes the writing end of the pipe, non-blocking; nil when the program has no input from here.
    init(_ pipe: consuming Descriptor?) { self.pipe = pipe }

    var poll: pollfd {
        guard let raw = pipeDescriptor, !queue.isEmpty else { return pollfd(fd: -1, events: 0, revents: 0) }
        return pollfd(fd: raw, events: Int16(POLLOUT), revents: 0)
    }

    private var pipeDescriptor: Int32? {
        switch pipe {
        case .some(let pipe): pipe.raw
        case .none: nil
        }
    }

    /// Takes bytes of the client, none for the end. False when the client sent more than its credit.
    mutating func append(_ payload: UnsafeRawBufferPointer) -> Bool {
        if pipeDescriptor == nil || isEnding { return true }
        if payload.isEmpty {
            isEnding = true
        } else {
            if payload.count > queue.room { return false }
            queue.append(payload)
        }
        write()
        return true
    }

    /// Writes what the pipe takes. A program that has closed its input gets no more.
    mutating func write() {
        guard let raw = pipeDescriptor else { return }
        while !queue.isEmpty {
            let bytes = queue.bytes
            let count = Glibc.write(raw, bytes.baseAddress, bytes.count)
            if count > 0 {
                queue.removeFirst(count)
                consumed += count
            } else if errno != EINTR {
                if errno != EAGAIN { close() }
                return
            }
        }
        if isEnding { close() }
    }

    /// Another client, who has all of its credit: what the last one typed and nobody has read is dropped.
    mutating func startAnew() {
        queue.removeAll()
        consumed = 0
    }

    /// The credit that is due now; 0 when it is not worth a frame yet.
    mutating func takeCredit() -> Int {
        if consumed < Self.creditBytes_min && !(queue.isEmpty && consumed > 0) { return 0 }
        defer { consumed = 0 }
        return consumed
    }

    mutating func close() {
        pipe = nil
        queue.removeAll()
    }
}

/// Carries standard output or error from the program's pipe into frames. Owned by the program's thread.
struct OutputRelay: ~Copyable {
    private let kind: AttachFrame
    private var pipe: Descriptor?

    /// Takes the reading end of the pipe, non-blocking; nil when there is none.
    init(_ kind: AttachFrame, _ pipe: consuming Descriptor?) {
        self.kind = kind
        self.pipe = pipe
    }

    /// nil once the stream has ended.
    var pipeDescriptor: Int32? {
        switch pipe {
        case .some(let pipe): pipe.raw
        case .none: nil
        }
    }

    func poll(for client: borrowing AttachClient) -> pollfd {
        pollfd(fd: client.hasRoomForOutput ? pipeDescriptor ?? -1 : -1, events: Int16(POLLIN), revents: 0)
    }

    /// While nobody is there to take it.
    var pollToDiscard: pollfd { pollfd(fd: pipeDescriptor ?? -1, events: Int16(POLLIN), revents: 0) }

    /// Reads once, for nobody.
    mutating func discard() {
        guard let raw = pipeDescriptor else { return }
        let count = withUnsafeTemporaryAllocation(byteCount: Self.discarded_max, alignment: 1) {
            read(raw, $0.baseAddress, $0.count)
        }
        if count == 0 || count < 0 && errno != EINTR && errno != EAGAIN { pipe = nil }
    }
    private static let discarded_max = 16 << 10

    /// Reads once. When the program's last process is gone (`isLast`), an empty pipe is the end of the stream even if
    /// somebody outside has got hold of its other end.
    mutating func serve(_ client: inout AttachClient, isLast: Bool) {
        guard let raw = pipeDescriptor, client.hasRoomForOutput else { return }
        let count = client.appendOutput(kind, from: raw)
        if count > 0 { return }
        if count < 0 && (errno == EINTR || (errno == EAGAIN && !isLast)) { return }
        pipe = nil
        client.append(kind)
    }

    /// Closes the pipe: the program's next write raises SIGPIPE.
    mutating func close() { pipe = nil }
}
