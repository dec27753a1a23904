import CLinux
import Glibc
import Kernel
import Synchronization

/// The TCP transport of one queue pair. One driver does both directions, by one thread at a time: the poster sends at
/// once, a poll of a completion queue reads the socket itself, and the device's thread does either when nobody else
/// does. Every chunk that touches registered memory checks its key anew inside the activity window, so that a
/// deregistration waits for a system call at most.
///
/// Mutable fields are the driver's, but for the atomics.
final class StreamChannel: @unchecked Sendable {
    /// Payloads up to this travel through the staging buffer together with their neighbours; larger ones straight from
    /// and to registered memory.
    static let stagedBytes_max = 8 << 10
    static let bufferBytes = 64 << 10
    /// A read is answered in frames of at most this, so that an error can still be told in the middle.
    static let readPieceBytes_max = 1 << 20

    /// What a thread wants done.
    struct Wants: OptionSet {
        let rawValue: UInt32
        static let transmit = Wants(rawValue: 1)
        /// To take all that the socket has, and its end.
        static let receive = Wants(rawValue: 2)
        /// To take what the socket has now; there will be another look.
        static let look = Wants(rawValue: 4)
    }

    /// An answer that waits to be sent.
    struct Answer {
        var frame: StreamFrame
        /// Of a read: bytes that remain.
        var left = 0
    }

    /// Where the payload of the frame that is being received goes.
    enum Sink {
        case none
        case region
        case receive
        case readEntry
        case discard
    }

    let socket: Descriptor
    let table: RegionTableView
    private let lock = SpinLock()
    private let wants = Atomic<UInt32>(0)
    /// Odd while the driver may touch registered memory.
    private let activityWord: UnsafeMutablePointer<UInt32>

    /// Lets arrivals wake the device's thread. Set once, before `hasLink`.
    var onArm: (@Sendable () -> Void)?
    let hasLink = Atomic<Bool>(false)
    /// How often a poll has looked at the socket.
    let polls = Atomic<UInt64>(0)
    /// Arrivals do not wake the device's thread: whoever polls all the time reads the socket. Changed by the link.
    let isLeft = Atomic<Bool>(false)

    // Sending.
    let out: UnsafeMutableRawPointer
    var outStart = 0
    var outEnd = 0
    /// The payload that follows the staging buffer, when it is large: a request of the send queue, or a read's answer.
    var bulk = Bulk()
    /// Index of the next send-queue request to transmit; those before it and from the queue's first are unanswered.
    var started = 0
    /// Answers that wait; bounded by what the peer may have under way.
    private(set) var answers: UnsafeMutablePointer<Answer>
    private(set) var answerCapacity = 1
    var answerHead = 0
    var answerTail = 0
    /// The acknowledgement goes with the next frame, which is often the program's answer to what has just come; a look that
    /// finds nothing sends it by itself.
    var isAcknowledgeDeferred = false
    /// All requests before this one have been acknowledged or answered, once what is staged has been sent.
    var acknowledgedSequence: UInt32 = 0
    let isCreditWanted = Atomic<Bool>(false)
    var messagesSent: UInt32 = 0
    var peerPosted: UInt32 = 0

    // Receiving.
    let input: UnsafeMutableRawPointer
    var inStart = 0
    var inEnd = 0
    var frame = StreamFrame(.credit)
    var sink = Sink.none
    var sinkOffset = 0
    var nextSequence: UInt32 = 0
    /// The last one of the socket took less than there was room for.
    var isSocketEmpty = false
    var readOffset = 0
    /// A request was refused: nothing more is done for the peer, which is about to disconnect.
    var isRefusing = false
    var hasEnded = false
    /// Messages that have consumed a receive, and receives that the peer knows of.
    let arrived = Atomic<UInt32>(0)
    let advertised = Atomic<UInt32>(0)

    struct Bulk {
        enum Source {
            case none
            case entry
            case region
            /// The region went away while its bytes were being sent: zeros fill the frame, an error follows.
            case poisoned
        }
        var source = Source.none
        var key: UInt32 = 0
        var address: UInt64 = 0
        var offset = 0
        var left = 0
    }

    init(socket: consuming Descriptor, table: RegionTableView, configuration: SoftDeviceConfiguration) {
        self.socket = socket
        self.table = table
        out = .allocate(byteCount: Self.bufferBytes, alignment: 64)
        input = .allocate(byteCount: Self.bufferBytes, alignment: 64)
        answers = .allocate(capacity: 1)
        activityWord = .allocate(capacity: 1)
        activityWord.initialize(to: 0)
        Sockets.prepareStream(self.socket.raw, peerTimeout: configuration.peerTimeout)
    }

    /// Takes how many requests the peer may have under way, how many receives it has posted, and how many it knows of.
    /// Before the pair is connected.
    func connect(theirRequests: Int, peerPosted: UInt32, advertised: UInt32) {
        self.peerPosted = peerPosted
        self.advertised.store(advertised, ordering: .sequentiallyConsistent)
        answers.deallocate()
        // Each request has one answer.
        answerCapacity = theirRequests
        answers = .allocate(capacity: answerCapacity)
    }

    deinit {
        out.deallocate()
        input.deallocate()
        answers.deallocate()
        activityWord.deallocate()
    }

    // MARK: Driving

    /// Carries on, unless another thread does; that one then looks again before it leaves.
    func drive(_ wanted: Wants, _ pair: SoftQueuePair) {
        wants.bitwiseOr(wanted.rawValue, ordering: .sequentiallyConsistent)
        while lock.tryLock() {
            let now = Wants(rawValue: wants.exchange(0, ordering: .sequentiallyConsistent))
            if pair.isBroken { hasEnded = true }
            if !hasEnded {
                if !receive(now, pair) || !transmitAvailable(pair) { end(pair) }
            }
            if hasEnded { flush(pair) }
            lock.unlockFully()
            if wants.load(ordering: .sequentiallyConsistent) == 0 { return }
        }
    }

    /// Reads the socket as it is wanted. False when the connection has ended or must end.
    private func receive(_ wanted: Wants, _ pair: SoftQueuePair) -> Bool {
        if wanted.contains(.receive) {
            isAcknowledgeDeferred = false
            return receiveAvailable(pair, once: false)
        }
        if !wanted.contains(.look) { return true }
        let before = arrived.load(ordering: .relaxed)
        let isGood = receiveAvailable(pair, once: true)
        // The peer must not run out of requests; and where this is the last look for long, the device's thread takes the
        // socket up and acknowledges.
        isAcknowledgeDeferred =
            arrived.load(ordering: .relaxed) != before && Int(nextSequence &- acknowledgedSequence) < answerCapacity / 4
            && isLeft.load(ordering: .sequentiallyConsistent)
        return isGood
    }

    /// Called by a poll of `queue`: reads the socket without waiting for the device's thread. Cost: a system call.
    func progress(on queue: SoftCompletionQueue, _ pair: SoftQueuePair) {
        guard queue === pair.receiveCompletions || pair.hasWork else { return }
        // Approximate where two queues are polled at once; it only tells that somebody polls.
        polls.store(polls.load(ordering: .relaxed) &+ 1, ordering: .relaxed)
        drive(.look, pair)
    }

    private func end(_ pair: SoftQueuePair) {
        hasEnded = true
        pair.breakConnection()
    }

    private func flush(_ pair: SoftQueuePair) {
        if sink == .receive || sink == .region && frame.kind == .writeImmediate {
            pair.receiveCompletions.cancelReservation()
        }
        sink = .none
        while !pair.sendQueue.isEmpty {
            let index = pair.sendQueue.first
            if index >= started {
                guard pair.sendCompletions.reserve() else { return }
            }
            complete(pair, index, .flushed)
        }
        pair.flushReceives()
    }

    /// Ends the oldest request, which has a place in the completion queue.
    func complete(_ pair: SoftQueuePair, _ index: Int, _ status: WorkStatus) {
        if pair.complete(pair.sendQueue.entry(index), status) { pair.sendCompletions.notifyIfArmed() }
        if started <= index { started = index &+ 1 }
    }

    // MARK: Registered memory

    @inline(__always)
    func whileActive<Value>(_ body: () -> Value) -> Value {
        let before = activityWord.pointee
        lego_atomic_store_u32(activityWord, before &+ 1)
        lego_atomic_fence()
        defer { lego_atomic_store_u32(activityWord, before &+ 2) }
        return body()
    }

    /// The address of a peer's access, when its region allows it. Inside the activity window.
    @inline(__always)
    func resolve(_ key: UInt32, _ address: UInt64, _ count: Int, _ access: RemoteAccess) -> UnsafeMutableRawPointer? {
        guard let entry = table.entry(key), RegionTableView.allows(entry, access),
            RegionTableView.covers(entry, address: address, count: UInt64(count))
        else { return nil }
        return UnsafeMutableRawPointer(bitPattern: UInt(address))
    }

    func waitForAccesses() { SharedChannel.waitForChange(activityWord) { true } }

    // MARK: Receives

    /// A receive has been posted. The peer is told with the next frame, or at once when it may be waiting for it.
    func announce(_ pair: SoftQueuePair) {
        if needsCredit(pair) {
            isCreditWanted.store(true, ordering: .sequentiallyConsistent)
            drive(.transmit, pair)
        }
    }

    func needsCredit(_ pair: SoftQueuePair) -> Bool {
        let posted = UInt32(truncatingIfNeeded: pair.receiveQueue.posted)
        let known = advertised.load(ordering: .sequentiallyConsistent)
        if posted == known { return false }
        let left = known &- arrived.load(ordering: .sequentiallyConsistent)
        return left == 0 || posted &- known >= UInt32(max(1, pair.receiveQueue.capacity / 4))
    }
}
