import CLinux
import CLite
import Glibc
import Kernel
import Synchronization

/// A program's membership in LITE, by way of this host's node daemon: regions of remote memory, calls, locks and
/// barriers. `lite.h` documents each operation; this is the same in Swift, with errors thrown.
///
/// Safe on any thread. A thread always uses the same channel, so that as many threads as there are channels do not
/// disturb each other. `leave` (or the end of the last reference) must come after the last operation.
public final class LiteSession: @unchecked Sendable {
    public struct Options: Sendable {
        /// Channels, 1 to 16.
        public var channels = 1
        public var priority = Priority.normal
        /// How long a thread spins for an answer before it sleeps; it stops spinning where that does not pay.
        public var spin: Duration = .microseconds(20)
        public init() {}
    }

    /// What the daemon serves first when both ask.
    public enum Priority: UInt32, Sendable {
        case normal = 0
        case high = 1
        case low = 2
    }

    let socket: Int32
    let channels: [ClientChannel]
    /// This host's node.
    public let node: UInt64
    let buffers = BufferList()
    /// Held while a buffer is made.
    let making = Mutex<Void>(())
    private let isLeft: UnsafeMutablePointer<UInt32>

    /// Joins the daemon that listens at `path` (nil: `$LEGO_LITE_SOCKET`, else /run/lego/lite.sock).
    public init(path: String? = nil, options: Options = Options()) throws(LiteFailure) {
        let connection = try Connection(
            path: path ?? Connection.defaultPath, channels: options.channels, priority: options.priority.rawValue)
        socket = connection.socket
        node = connection.node
        channels = connection.channels.map { ClientChannel(file: $0, socket: connection.socket, spin: options.spin) }
        isLeft = .allocate(capacity: 1)
        isLeft.initialize(to: 0)
    }

    deinit {
        leave()
        isLeft.deallocate()
    }

    /// Leaves; the daemon closes and frees what was this program's. Idempotent.
    public func leave() {
        if lego_atomic_exchange_u32(isLeft, 1) == 0 { Glibc.close(socket) }
    }

    /// The calling thread's channel.
    var channel: ClientChannel { channels[channelNumber] }

    @inline(__always)
    var channelNumber: Int { channels.count == 1 ? 0 : Int(pthread_self() >> 12) % channels.count }

    /// Runs `body` on a channel there is, which lives as long as this, without counting a reference.
    @inline(__always)
    func withChannel<Value>(_ number: Int, _ body: (ClientChannel) -> Value) -> Value {
        channels.uncounted(ClientChannel.self, at: number).unsafelyUnwrapped._withUnsafeGuaranteedRef(body)
    }

    // MARK: Operations

    /// Runs one operation with data of at most `bytes` in the channel: `fill` writes them, `collect` takes what came
    /// back.
    @inline(__always)
    func run(
        _ opcode: lite_opcode, bytes: Int, until deadline: Deadline = .never,
        fill: (inout lite_submission, UnsafeMutableRawPointer) -> Void,
        collect: (Outcome, UnsafeMutableRawPointer) -> Void = { _, _ in },
        refuse: (Outcome) -> Void = { _ in }
    ) -> Int32 {
        withChannel(channelNumber) { channel in
            guard var ticket = channel.takeWaiting(bytes: bytes) else { return LITE_EBUSY.code }
            var submission = lite_submission()
            submission.opcode = UInt8(truncatingIfNeeded: opcode.rawValue)
            submission.data = UInt64(ticket.data)
            fill(&submission, channel.base + ticket.data)
            channel.post(&submission, &ticket)
            let outcome = channel.wait(ticket, until: deadline, forOthers: Self.isForOthers(opcode))
            if outcome.status >= 0 { collect(outcome, channel.base + ticket.data) } else { refuse(outcome) }
            // A daemon that is gone may not be: its late answer must find nobody else in the slot.
            if outcome.status != LITE_EDAEMON.code { channel.give(ticket) }
            return outcome.status
        }
    }

    /// What ends when another program does something.
    @inline(__always)
    private static func isForOthers(_ opcode: lite_opcode) -> Bool {
        opcode == LITE_OP_RECEIVE || opcode == LITE_OP_REPLY_RECEIVE || opcode == LITE_OP_LOCK
            || opcode == LITE_OP_BARRIER
    }

    /// An operation that has a name as its data.
    func runNamed(
        _ opcode: lite_opcode, _ name: UnsafeRawBufferPointer, until deadline: Deadline = .never,
        fill: (inout lite_submission) -> Void = { _ in }, collect: (Outcome) -> Void = { _ in }
    ) -> Int32 {
        guard (1...Int(LITE_NAME_MAX)).contains(name.count), let start = name.baseAddress else {
            return LITE_EINVAL.code
        }
        return run(opcode, bytes: name.count, until: deadline) { submission, data in
            data.copyMemory(from: start, byteCount: name.count)
            submission.count = UInt64(name.count)
            fill(&submission)
        } collect: { outcome, _ in
            collect(outcome)
        }
    }

    /// The same with a Swift text.
    func runNamed(
        _ opcode: lite_opcode, _ name: String, until deadline: Deadline = .never,
        fill: (inout lite_submission) -> Void = { _ in }, collect: (Outcome) -> Void = { _ in }
    ) -> Int32 {
        var name = name
        return name.withUTF8 { bytes in
            runNamed(opcode, UnsafeRawBufferPointer(bytes), until: deadline, fill: fill, collect: collect)
        }
    }

    /// A deadline from `lite.h`'s milliseconds.
    static func deadline(_ timeout_ms: Int32) -> Deadline {
        timeout_ms < 0 ? .never : .after(.milliseconds(Int64(timeout_ms)))
    }

    // MARK: Nodes

    /// Up to `nodes.count` nodes of the cluster, this one first; answers how many there are.
    func nodes(into nodes: UnsafeMutableBufferPointer<UInt64>) -> Int32 {
        let room = min(nodes.count, Int(LITE_CELL) / 8)
        var count: Int32 = 0
        let status = run(LITE_OP_NODES, bytes: Int(LITE_CELL)) { submission, _ in
            submission.count = UInt64(room * 8)
        } collect: { outcome, data in
            count = Int32(clamping: outcome.value)
            for index in 0..<min(room, Int(count)) {
                nodes[index] = data.load(fromByteOffset: index * 8, as: UInt64.self)
            }
        }
        return status < 0 ? status : count
    }

    /// The nodes of the cluster, this one first.
    public func nodes() throws(LiteFailure) -> [UInt64] {
        var list = [UInt64](repeating: 0, count: Int(LITE_CELL) / 8)
        let count = try LiteFailure.check(list.withUnsafeMutableBufferPointer { nodes(into: $0) })
        return Array(list.prefix(Int(count)))
    }

    /// The node of that name.
    public func node(named name: String) throws(LiteFailure) -> UInt64 {
        var node: UInt64 = 0
        try LiteFailure.check(runNamed(LITE_OP_NODE_NAMED, name, collect: { node = $0.value }))
        return node
    }
}
