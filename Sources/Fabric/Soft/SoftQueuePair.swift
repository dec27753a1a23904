import CLinux
import Glibc
import Kernel
import Synchronization

/// One end of a reliable connection of a `SoftDevice`.
///
/// Drivers carry its work on, each by one thread at a time. Over shared memory the send driver empties the send queue
/// (the poster, a poll of the send completion queue, the device's thread) and the receive driver matches arrivals with
/// receives (a poll of the receive completion queue, the device's thread); over TCP one driver does both. The device
/// keeps a pair until it has been disconnected and everything flushed.
public final class SoftQueuePair: QueuePair, @unchecked Sendable {
    public typealias Region = SoftRegion

    enum Transport: ~Copyable {
        case shared(Held<SharedChannel>)
        case stream(Held<StreamChannel>)
    }

    enum State: UInt32 {
        case connecting = 0
        case connected = 1
        /// Disconnected, by either side or by a failed request; what is posted is flushed.
        case broken = 2
        /// Flushed, and no longer known to the device and its completion queues.
        case detached = 3
    }

    public let number: UInt32
    let context: SoftContext
    let sendQueue: SendQueue
    let receiveQueue: ReceiveQueue
    let sendCompletions: SoftCompletionQueue
    let receiveCompletions: SoftCompletionQueue
    let transport: Transport

    let state = Atomic<UInt32>(State.connecting.rawValue)
    /// When the request at the head of the send queue gives up waiting for a receive; 0 when it does not wait.
    /// Monotonic ns.
    private let receiverDeadline = Atomic<UInt64>(0)
    /// True once the peer's stream has ended: it has flushed its side, or died, and no access of it is under way any
    /// more.
    let isPeerGone = Atomic<Bool>(false)

    init(
        context: SoftContext, transport: consuming Transport, send: SoftCompletionQueue, receive: SoftCompletionQueue,
        parameters: QueuePairParameters
    ) {
        self.context = context
        self.transport = transport
        number = context.takeNumber()
        sendCompletions = send
        receiveCompletions = receive
        sendQueue = SendQueue(parameters)
        receiveQueue = ReceiveQueue(parameters)
    }

    /// Runs `body` on the channel of a pair over shared memory.
    @inline(__always)
    private func withShared<Value>(_ otherwise: Value, _ body: (SharedChannel) -> Value) -> Value {
        switch transport {
        case .shared(let channel): channel.lend(body)
        case .stream: otherwise
        }
    }

    /// Whether the acceptor's greeting says that it is on this host. The initiator's, before the pair is handed out.
    var isPeerOnHost = false

    var isConnecting: Bool { state.load(ordering: .acquiring) == State.connecting.rawValue }

    public var link: LinkKind {
        switch transport {
        case .shared: .sharedMemory
        case .stream: .tcp
        }
    }

    public var peerProcess: Int32 {
        withShared(0) { $0.peerProcess }
    }

    public var isConnected: Bool {
        guard state.load(ordering: .acquiring) == State.connected.rawValue else { return false }
        return withShared(true) { !$0.isClosedByPeer }
    }

    /// Cost over shared memory: the copy, and some 100 ns. Over TCP: a system call, unless another thread is sending.
    public func postSend(_ request: borrowing WorkRequest) -> Bool {
        if state.load(ordering: .acquiring) == State.connecting.rawValue { return false }
        var entry = sendQueue.entry(of: request)
        let local = request.local
        if withShared(false, { $0.executeAtOnce(&entry, local, self) }) { return true }
        guard sendQueue.append(entry, local) else { return false }
        driveSend()
        return true
    }

    public func postReceive(id: UInt64, local: UnsafeBufferPointer<ScatterElement>) -> Bool {
        guard let (index, count) = receiveQueue.append(id: id, local: local) else { return false }
        switch transport {
        case .shared(let channel): channel.lend { $0.announce(index, count: count) }
        case .stream(let channel):
            if state.load(ordering: .acquiring) == State.connected.rawValue { channel.lend { $0.announce(self) } }
        }
        if isBroken { driveReceive() }
        return true
    }

    public func disconnect() { breakConnection() }

    public func awaitQuiet(until deadline: Deadline) -> Bool {
        switch transport {
        case .shared(let channel):
            return channel.object.awaitPeer { !isPeerGone.load(ordering: .acquiring) && !deadline.hasPassed }
                || isPeerGone.load(ordering: .acquiring)
        case .stream(let channel):
            // The peer's accesses are this device's own, a system call long at most.
            channel.object.waitForAccesses()
            return true
        }
    }

    public func beginAccess(_ remoteKey: UInt32, address: UInt64, count: Int, _ access: RemoteAccess)
        -> UnsafeMutableRawPointer?
    {
        guard state.load(ordering: .acquiring) == State.connected.rawValue else { return nil }
        return withShared(nil) { $0.beginAccess(remoteKey, address: address, count: count, access) }
    }

    public func endAccess() { withShared(()) { $0.endAccess() } }

    // MARK: Sockets left to a poller

    /// Its completion queues take the pair's socket up again when somebody arms.
    func noteLeft(_ isLeft: Bool) {
        sendCompletions.noteLeft(isLeft)
        if receiveCompletions !== sendCompletions { receiveCompletions.noteLeft(isLeft) }
    }

    var isArmed: Bool { sendCompletions.isArmed || receiveCompletions.isArmed }

    func takeUp() {
        switch transport {
        case .shared: break
        // The pair may be on a queue already while its link is still being made.
        case .stream(let channel): channel.lend { if $0.hasLink.load(ordering: .acquiring) { $0.onArm?() } }
        }
    }

    // MARK: Life

    /// Begins to work: the transport has all that it needs.
    func join() throws(FabricError) {
        state.store(State.connected.rawValue, ordering: .sequentiallyConsistent)
        sendCompletions.attach(self)
        if receiveCompletions !== sendCompletions { receiveCompletions.attach(self) }
        let link: any PairLink =
            switch transport {
            case .shared(let channel): SharedLink(pair: self, channel: channel.object)
            case .stream(let channel): StreamLink(pair: self, channel: channel.object)
            }
        guard context.add(link) else {
            abandon()
            throw .invalid("a connection of a closed device: none can be made")
        }
        // A message may have come, and its notification gone by, before the queue knew of this pair.
        receiveCompletions.notifyIfArmed()
    }

    /// Ends the connection for both sides. Any thread; the device's thread flushes what is posted.
    @inline(never)
    func breakConnection() {
        let exchange = state.compareExchange(
            expected: State.connected.rawValue, desired: State.broken.rawValue, ordering: .sequentiallyConsistent)
        guard exchange.exchanged else { return }
        switch transport {
        case .shared(let channel): channel.object.close()
        case .stream(let channel): shutdown(channel.object.socket.raw, Int32(SHUT_RDWR))
        }
        context.wake()
    }

    /// On the device's thread, once the connection is broken: flushes. True when nothing is left to flush; the pair
    /// then has been detached, and the end of the stream tells the peer that no access comes from here any more.
    func finish() -> Bool {
        if state.load(ordering: .acquiring) == State.detached.rawValue { return true }
        driveSend()
        driveReceive()
        guard sendQueue.isEmpty, receiveQueue.isEmpty else { return false }
        detach()
        return true
    }

    /// Detaches without flushing: the device closes, and nobody may be polling.
    func abandon() {
        breakConnection()
        detach()
    }

    private func detach() {
        state.store(State.detached.rawValue, ordering: .sequentiallyConsistent)
        sendCompletions.detach(self)
        if receiveCompletions !== sendCompletions { receiveCompletions.detach(self) }
        withShared(()) { _ = shutdown($0.control, Int32(SHUT_WR)) }
    }

    var hasWork: Bool { !sendQueue.isEmpty }

    var isBroken: Bool { state.load(ordering: .acquiring) >= State.broken.rawValue }

    // MARK: Drivers

    /// Called by a poll of `queue`.
    @inline(__always)
    func progress(on queue: SoftCompletionQueue, _ poll: inout SoftCompletionQueue.Poll) {
        switch transport {
        case .shared(let channel):
            channel.lend { channel in
                if queue === receiveCompletions, channel.hasArrivals || isBroken { channel.driveReceive(self, &poll) }
                if queue === sendCompletions, !sendQueue.isEmpty { channel.driveSend(self) }
            }
        case .stream(let channel): channel.lend { $0.progress(on: queue, self) }
        }
        // A flush that waited for room goes on.
        if isBroken { context.wake() }
    }

    func driveSend() {
        switch transport {
        case .shared(let channel): channel.lend { $0.driveSend(self) }
        case .stream(let channel): channel.lend { $0.drive(.transmit, self) }
        }
    }

    func driveReceive() {
        switch transport {
        case .shared(let channel):
            channel.lend { channel in
                var poll = SoftCompletionQueue.Poll.nobody
                channel.driveReceive(self, &poll)
            }
        case .stream(let channel): channel.lend { $0.drive(.receive, self) }
        }
    }

    /// Ends the oldest request as `report` does.
    @inline(__always)
    func complete(_ entry: UnsafeMutablePointer<SendEntry>, _ status: WorkStatus) -> Bool {
        let ended = entry.pointee
        sendQueue.retire()
        return report(ended, status)
    }

    /// Reports the end of a request, for which the completion queue has promised a place. Answers whether there is a
    /// completion, of which nobody has been notified yet.
    @inline(__always)
    func report(_ entry: SendEntry, _ status: WorkStatus) -> Bool {
        if status == .success, !entry.isSignaled {
            sendCompletions.cancelReservation()
            return false
        }
        // As in hardware, a failed request ends the connection.
        if status != .success { breakConnection() }
        sendCompletions.add(
            WorkCompletion(
                id: entry.id, status: status, kind: .send, count: UInt32(truncatingIfNeeded: entry.count),
                queuePair: number))
        return true
    }

    /// Flushes the posted receives, as far as the completion queue has room. On the receive driver of a broken pair.
    func flushReceives() {
        while let receive = receiveQueue.first {
            guard receiveCompletions.reserve() else { return }
            let id = receive.pointee.id
            receiveQueue.retire()
            receiveCompletions.push(WorkCompletion(id: id, status: .flushed, kind: .receive, queuePair: number))
        }
    }

    // MARK: Waiting for a receive

    /// Notes when the request at the head began to wait for a receive; false when it has waited long enough.
    func mayWaitForReceive() -> Bool {
        let now = monotonicNanoseconds()
        let deadline = receiverDeadline.load(ordering: .relaxed)
        if deadline == 0 {
            let timeout = context.configuration.receiverNotReadyTimeout
            receiverDeadline.store(Deadline.after(timeout).nanoseconds, ordering: .relaxed)
            context.wake()
            return true
        }
        return now < deadline
    }

    @inline(__always)
    func stopWaitingForReceive() { receiverDeadline.store(0, ordering: .relaxed) }

    /// On the device's thread: lets a request that has waited too long fail; answers when the next one will have.
    func checkDeadline() -> Deadline {
        let deadline = Deadline(nanoseconds: receiverDeadline.load(ordering: .relaxed))
        if deadline.nanoseconds == 0 || isBroken { return .never }
        if !deadline.hasPassed { return deadline }
        driveSend()
        return .never
    }
}
