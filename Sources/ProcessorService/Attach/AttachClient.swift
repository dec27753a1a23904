import Glibc
import Kernel
import Wire

/// The connection to an attached legoctl: frames in, frames out, in bounded buffers. Never waits. Owned by one thread.
struct AttachClient: ~Copyable {
    private static let frameBytes_max = AttachFrame.headerBytes + AttachFrame.payloadBytes_max
    /// Room that output never takes, for the short frames: credit, the ends of the streams and, last, `exit`.
    private static let reserveBytes = 4 << 10
    /// Less room than this is not worth reading output for.
    private static let outputBytes_min = 4 << 10

    private let socket: Descriptor
    private var inbound = ByteQueue(capacity: Self.frameBytes_max)
    private var outbound = ByteQueue(capacity: 2 * Self.frameBytes_max + Self.reserveBytes)
    /// False when the other side has ended the connection or broken the protocol.
    private(set) var isConnected = true

    /// Takes a connected, non-blocking socket whose `hello` has been read.
    init(_ socket: consuming Descriptor) {
        self.socket = socket
        append(.welcome)
    }

    /// What to wait for. Frames are taken as they come, so there is always room for another.
    var poll: pollfd {
        let events = POLLIN | (outbound.isEmpty ? 0 : POLLOUT)
        return pollfd(fd: isConnected ? socket.raw : -1, events: Int16(events), revents: 0)
    }

    var hasRoomForOutput: Bool { outputRoom >= Self.outputBytes_min }
    var isFlushed: Bool { outbound.isEmpty }

    private var outputRoom: Int { outbound.room - Self.reserveBytes - AttachFrame.headerBytes }

    /// Sends and receives what is possible now.
    mutating func serve(_ events: Int16) {
        if events & Int16(POLLIN | POLLHUP | POLLERR) != 0 { receive() }
        if !outbound.isEmpty { flush() }
    }

    private mutating func receive() {
        let space = inbound.space()
        let count = recv(socket.raw, space.baseAddress, space.count, Int32(MSG_DONTWAIT))
        if count > 0 {
            inbound.fill(count)
        } else if count == 0 || (errno != EAGAIN && errno != EINTR) {
            isConnected = false
        }
    }

    mutating func flush() {
        while isConnected && !outbound.isEmpty {
            let bytes = outbound.bytes
            let count = send(socket.raw, bytes.baseAddress, bytes.count, Int32(MSG_DONTWAIT | MSG_NOSIGNAL))
            if count > 0 {
                outbound.removeFirst(count)
            } else if errno != EINTR {
                if errno != EAGAIN { isConnected = false }
                return
            }
        }
    }

    /// Takes the complete frames that have arrived. `body` answers whether it understands a frame; one that it does not
    /// understand is the end of the connection.
    mutating func takeFrames(_ body: (AttachFrame, UnsafeRawBufferPointer) -> Bool) {
        while isConnected && inbound.count >= AttachFrame.headerBytes {
            let bytes = inbound.bytes
            let length = Int(UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 1, as: UInt32.self)))
            guard let kind = AttachFrame(rawValue: bytes[0]), length <= AttachFrame.payloadBytes_max else {
                isConnected = false
                return
            }
            let end = AttachFrame.headerBytes + length
            if bytes.count < end { return }
            let isUnderstood = body(kind, UnsafeRawBufferPointer(rebasing: bytes[AttachFrame.headerBytes..<end]))
            inbound.removeFirst(end)
            if !isUnderstood { isConnected = false }
        }
    }

    /// Queues a short frame. The reserve holds all that are ever queued between two flushes.
    mutating func append(_ kind: AttachFrame, _ payload: [UInt8] = []) {
        if outbound.room < AttachFrame.headerBytes + payload.count {
            isConnected = false
            return
        }
        appendHeader(kind, payload.count)
        payload.withUnsafeBytes { outbound.append($0) }
    }

    /// Reads output of the program straight into a frame. Answers what read(2) answered.
    mutating func appendOutput(_ kind: AttachFrame, from pipe: Int32) -> Int {
        let space = outbound.space()
        let room = min(outputRoom, AttachFrame.payloadBytes_max)
        let count = read(pipe, space.baseAddress! + AttachFrame.headerBytes, room)
        if count > 0 {
            appendHeader(kind, count)
            outbound.fill(count)
        }
        return count
    }

    private mutating func appendHeader(_ kind: AttachFrame, _ length: Int) {
        let space = outbound.space()
        space[0] = kind.rawValue
        space.storeBytes(of: UInt32(length).littleEndian, toByteOffset: 1, as: UInt32.self)
        outbound.fill(AttachFrame.headerBytes)
    }
}
