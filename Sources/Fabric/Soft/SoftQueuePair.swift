import CLinux
import Glibc
import Kernel
import Synchronization

/// One end of a reliable connection of a `SoftDevice`.
///
/// Two drivers carry its work on, each by one thread at a time: the send driver empties the send queue (the poster, a poll of
/// the send completion queue, the device's thread), the receive driver matches arrivals with receives (a poll of the receive
/// completion queue, the device's thread). The device keeps a pair until it has been disconnected and everything flushed.
public final class SoftQueuePair: QueuePair, @unchecked Sendable {
    public typealias Region = SoftRegion

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
    let channel: SharedChannel
    /// The Unix socket to the peer's device: region requests, and the notice of the peer's death. -1 before it is connected;
    /// closed by `deinit`.
    private(set) var control: Int32 = -1

    private let state = Atomic<UInt32>(State.connecting.rawValue)
    private let sendDriver = Driver()
    private let receiveDriver = Driver()
    /// When the request at the head of the send queue gives up waiting for a receive; 0 when it does not wait. Monotonic ns.
    private let receiverDeadline = Atomic<UInt64>(0)
    /// The last key that was asked for; the send driver's.
    private var askedKey: UInt32 = 0
    /// The peer broke the protocol, or a receive failed; the receive driver's.
    private var isReceiveBroken = false
    /// True once the peer's stream has ended: it has flushed its side, or died, and no access of it is under way any more.
    let isPeerGone = Atomic<Bool>(false)

    init(
        context: SoftContext, number: UInt32, channel: SharedChannel, send: SoftCompletionQueue,
        receive: SoftCompletionQueue, parameters: QueuePairParameters
    ) {
        self.context = context
        self.number = number
        self.channel = channel
        sendCompletions = send
        receiveCompletions = receive
        sendQueue = SendQueue(parameters)
        receiveQueue = ReceiveQueue(parameters)
    }

    deinit { if control >= 0 { Glibc.close(control) } }

    public var link: LinkKind { .sharedMemory }

    public var isConnected: Bool {
        state.load(ordering: .acquiring) == State.connected.rawValue && !channel.isClosedByPeer
    }

    /// Cost over shared memory: the copy, and some 100 ns.
    public func postSend(_ request: borrowing WorkRequest) -> Bool {
        let now = state.load(ordering: .acquiring)
        if now == State.connecting.rawValue { return false }
        guard sendQueue.append(request) else { return false }
        driveSend()
        return true
    }

    public func postReceive(id: UInt64, local: UnsafeBufferPointer<ScatterElement>) -> Bool {
        guard let (index, count) = receiveQueue.append(id: id, local: local) else { return false }
        channel.announce(index, count: count)
        if state.load(ordering: .acquiring) >= State.broken.rawValue { driveReceive() }
        return true
    }

    public func disconnect() { breakConnection() }

    // MARK: Life

    /// Begins to work over `control`, the socket to the peer's device.
    func join(control: consuming Descriptor) throws(FabricError) {
        self.control = control.release()
        state.store(State.connected.rawValue, ordering: .sequentiallyConsistent)
        sendCompletions.attach(self)
        if receiveCompletions !== sendCompletions { receiveCompletions.attach(self) }
        guard context.add(SharedLink(pair: self, context: context)) else {
            abandon()
            throw .invalid("a connection of a closed device: none can be made")
        }
        // A message may have come, and its notification gone by, before the queue knew of this pair.
        receiveCompletions.notifyIfArmed()
    }

    /// Ends the connection for both sides. Any thread; the device's thread flushes what is posted.
    func breakConnection() {
        let exchange = state.compareExchange(
            expected: State.connected.rawValue, desired: State.broken.rawValue, ordering: .sequentiallyConsistent)
        guard exchange.exchanged else { return }
        channel.close()
        // The peer's device flushes its side; a full socket means that it does not read, and then the hang-up must do.
        if !ControlMessage(kind: .bye, key: 0).send(on: control) { shutdown(control, Int32(SHUT_WR)) }
        context.wake()
    }

    /// On the device's thread, once the connection is broken: flushes. True when nothing is left to flush; the pair then has been
    /// detached, and the end of the stream tells the peer that no access comes from here any more.
    func finish() -> Bool {
        if state.load(ordering: .acquiring) == State.detached.rawValue { return true }
        driveSend()
        driveReceive()
        guard sendQueue.isEmpty, receiveQueue.isEmpty else { return false }
        state.store(State.detached.rawValue, ordering: .sequentiallyConsistent)
        sendCompletions.detach(self)
        if receiveCompletions !== sendCompletions { receiveCompletions.detach(self) }
        shutdown(control, Int32(SHUT_WR))
        return true
    }

    /// Detaches without flushing: the device closes, and nobody may be polling.
    func abandon() {
        state.store(State.detached.rawValue, ordering: .sequentiallyConsistent)
        sendCompletions.detach(self)
        receiveCompletions.detach(self)
        shutdown(control, Int32(SHUT_RDWR))
    }

    var hasWork: Bool { !sendQueue.isEmpty }

    var isBroken: Bool { state.load(ordering: .acquiring) >= State.broken.rawValue }

    // MARK: Drivers

    /// Called by a poll of `queue`.
    @inline(__always)
    func progress(on queue: SoftCompletionQueue) {
        let isBroken = state.load(ordering: .relaxed) >= State.broken.rawValue
        if queue === receiveCompletions, channel.hasArrivals || isBroken { driveReceive() }
        if queue === sendCompletions, !sendQueue.isEmpty { driveSend() }
        if isBroken { context.wake() }
    }

    func driveSend() { sendDriver.drive { runSend() } }

    private func runSend() {
        while !sendQueue.isEmpty {
            guard sendCompletions.reserve() else { return }
            let index = sendQueue.first
            let entry = sendQueue.entry(index)
            var status = WorkStatus.flushed
            if state.load(ordering: .acquiring) == State.connected.rawValue {
                switch channel.execute(entry, sendQueue.elements(index)) {
                case .finished(let result): status = result
                case .waiting:
                    sendCompletions.cancelReservation()
                    receiverDeadline.store(0, ordering: .relaxed)
                    askForRegion()
                    return
                case .waitingForReceive:
                    guard mayWaitForReceive() else {
                        status = .receiverNotReady
                        break
                    }
                    sendCompletions.cancelReservation()
                    return
                }
            }
            receiverDeadline.store(0, ordering: .relaxed)
            complete(entry, status)
        }
    }

    @inline(__always)
    private func complete(_ entry: UnsafeMutablePointer<SendEntry>, _ status: WorkStatus) {
        let isSignaled = entry.pointee.isSignaled
        let completion = WorkCompletion(
            id: entry.pointee.id, status: status, kind: .send, count: UInt32(truncatingIfNeeded: entry.pointee.count),
            queuePair: number)
        sendQueue.retire()
        if status == .success, !isSignaled {
            sendCompletions.cancelReservation()
            return
        }
        // As in hardware, a failed request ends the connection.
        if status != .success { breakConnection() }
        sendCompletions.push(completion)
    }

    /// Notes when the request at the head began to wait for a receive; false when it has waited long enough.
    private func mayWaitForReceive() -> Bool {
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

    /// On the device's thread: lets a request that has waited too long fail; answers when the next one will have.
    func checkDeadline() -> Deadline {
        let deadline = Deadline(nanoseconds: receiverDeadline.load(ordering: .relaxed))
        if deadline.nanoseconds == 0 { return .never }
        if !deadline.hasPassed { return deadline }
        driveSend()
        return .never
    }

    private func askForRegion() {
        let key = channel.wantedKey
        if key == 0 || key == askedKey { return }
        let message = ControlMessage(kind: .wantRegion, key: key)
        if message.send(on: control) { askedKey = key } else { context.wake() }
    }

    /// The answer about a region has come: on the device's thread.
    func regionArrived(_ key: UInt32, isMapped: Bool) {
        if !isMapped { channel.unmappableKey.store(key, ordering: .sequentiallyConsistent) }
        driveSend()
    }

    func driveReceive() { receiveDriver.drive { runReceive() } }

    private func runReceive() {
        let isConnected = state.load(ordering: .acquiring) == State.connected.rawValue
        // What had arrived before the peer went is delivered before the rest is flushed.
        let isPeersDoing = channel.isClosedByPeer || isPeerGone.load(ordering: .acquiring)
        if isConnected || isPeersDoing, !isReceiveBroken {
            switch channel.receive(receiveQueue, into: receiveCompletions, number: number) {
            case .empty: break
            case .completionsFull: return
            case .failed:
                isReceiveBroken = true
                breakConnection()
            }
        }
        guard isBroken else { return }
        while let receive = receiveQueue.first {
            guard receiveCompletions.reserve() else { return }
            let id = receive.pointee.id
            receiveQueue.retire()
            receiveCompletions.push(
                WorkCompletion(id: id, status: .flushed, kind: .receive, queuePair: number))
        }
    }
}
