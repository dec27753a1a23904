import CLinux
import Glibc
import Kernel
import Synchronization

/// What became of a request that a driver tried.
enum Step {
    case finished(WorkStatus)
    /// Something else must happen first; whoever does it wakes this device.
    case waiting
    /// The peer's device must do it: the region is no memory file.
    case served
    /// The peer has posted no receive: as `waiting`, but only until the receiver-not-ready deadline.
    case waitingForReceive
}

/// The shared-memory transport of one queue pair. The initiator's thread copies between its memory and the peer's mapped
/// regions; messages and immediates go through a ring in each direction, which the receiver's poll empties.
///
/// Mutable fields are the send driver's (`execute`) or the receive driver's (`receive`), as marked.
final class SharedChannel: @unchecked Sendable {
    /// What the peer gives at connection.
    struct Remote: ~Copyable {
        var device: PeerDevice
        /// The notification descriptor of the completion queue of its receives, and the page with its armed word.
        var queueEvent: Descriptor
        var queuePage: MemoryFile
    }

    let sendDriver = Driver()
    let receiveDriver = Driver()
    private let file: MemoryFile
    /// The Unix socket to the peer's device: requests for its thread, and the notice of the peer's end. -1 before `connect`;
    /// closed by `deinit`.
    private(set) var control: Int32 = -1
    let mine: PairPage
    let theirs: PairPage
    private let myRing: UnsafeMutableRawPointer
    private let theirRing: UnsafeMutableRawPointer
    private let receives: Int
    private var theirReceives = 1
    let table: RegionTableView
    /// Set once, before the pair is connected.
    private(set) var device: PeerDevice?
    private var queueEvent: Int32 = -1
    private var queuePage: MemoryFile?
    private var queueArmed: UnsafeMutablePointer<UInt32>

    // The send driver's.
    private var activity: UInt32 = 0
    private var ringTail: UInt64 = 0
    private var publishedTail: UInt64 = 0
    private var messagesSent: UInt64 = 0
    private var sendOffset = 0
    /// The key whose region has been asked for, 0 when none.
    var wantedKey: UInt32 = 0
    /// The key that was asked for last.
    var askedKey: UInt32 = 0
    var isDoneByOwner = false
    let owner = OwnerDialogue()
    /// A key whose region could not be mapped here, 0 when none.
    let unmappableKey = Atomic<UInt32>(0)

    // The receive driver's. The activity word has other readers.
    private var ringHead: UInt64 = 0
    private var receiveOffset = 0
    /// The peer broke the protocol, or a receive failed.
    var isReceiveBroken = false
    private let receiveActivity: UnsafeMutablePointer<UInt32>

    /// `side` is 0 for the initiator of the connection, 1 for its acceptor.
    init(file: MemoryFile, side: Int, receives: Int, table: RegionTableView) {
        self.file = file
        self.table = table
        self.receives = receives
        mine = PairPage(base: file.base + side * PairPage.sideBytes)
        theirs = PairPage(base: file.base + (1 - side) * PairPage.sideBytes)
        myRing = mine.base + PairPage.ringOffset
        theirRing = theirs.base + PairPage.ringOffset
        receiveActivity = .allocate(capacity: 1)
        receiveActivity.initialize(to: 0)
        queueArmed = receiveActivity
    }

    deinit {
        receiveActivity.deallocate()
        if queueEvent >= 0 { Glibc.close(queueEvent) }
        if control >= 0 { Glibc.close(control) }
    }

    /// Takes what the peer gave, and how many receives it may post. Before the pair is connected.
    func connect(_ remote: consuming Remote, control: consuming Descriptor, theirReceives: Int) {
        self.control = control.release()
        self.theirReceives = theirReceives
        device = remote.device
        queueArmed = remote.queuePage.base.assumingMemoryBound(to: UInt32.self)
        queuePage = remote.queuePage
        queueEvent = remote.queueEvent.release()
    }

    /// Tells the peer that this side has disconnected: no access of its that begins from now on is carried out.
    func close() {
        lego_atomic_store_u32(mine.word32(PairPage.Word.closed), 1)
        lego_atomic_fence()
        // A full socket means that the peer's device does not read: then the end of the stream must do.
        if !ControlMessage(kind: .bye, key: 0).send(on: control) { shutdown(control, Int32(SHUT_WR)) }
    }

    var isClosedByPeer: Bool { lego_atomic_load_u32(theirs.word32(PairPage.Word.closed)) != 0 }

    // MARK: Send

    /// Tries the request at the head of the send queue. On the send driver.
    func execute(_ entry: UnsafeMutablePointer<SendEntry>, _ elements: UnsafeMutablePointer<ScatterElement>) -> Step {
        if entry.pointee.verdict != .success { return .finished(entry.pointee.verdict) }
        return whileActive { executeActive(entry, elements) }
    }

    /// Runs `body` while a deregistration waits for this end. It stores the table and then looks at the word; here it is the other
    /// way round.
    @inline(__always)
    func whileActive<Value>(_ body: () -> Value) -> Value {
        let word = mine.word32(PairPage.Word.activity)
        activity &+= 1
        lego_atomic_store_u32(word, activity)
        lego_atomic_fence()
        defer {
            activity &+= 1
            lego_atomic_store_u32(word, activity)
        }
        return body()
    }

    @inline(__always)
    private func executeActive(
        _ entry: UnsafeMutablePointer<SendEntry>, _ elements: UnsafeMutablePointer<ScatterElement>
    ) -> Step {
        if isClosedByPeer || lego_atomic_load_u32(mine.word32(PairPage.Word.closed)) != 0 { return .finished(.flushed) }
        if !entry.pointee.isInline, !table.allLocal(elements, entry.pointee.elementCount) {
            return .finished(.localProtection)
        }
        switch entry.pointee.opcode {
        case .read, .write: return transfer(entry, elements)
        case .writeWithImmediate: return writeImmediate(entry, elements)
        case .send: return send(entry, elements)
        case .fetchAdd, .compareSwap: return atomic(entry, elements)
        }
    }

    private func transfer(_ entry: UnsafeMutablePointer<SendEntry>, _ elements: UnsafeMutablePointer<ScatterElement>)
        -> Step
    {
        let count = entry.pointee.count
        if count == 0 { return .finished(.success) }
        let isRead = entry.pointee.opcode == .read
        guard let device else { return .finished(.flushed) }
        switch device.resolve(
            entry.pointee.remoteKey, address: entry.pointee.remoteAddress, count: count, access: isRead ? .read : .write
        )
        {
        case .here(var remote):
            for index in 0..<entry.pointee.elementCount {
                let piece = Int(elements[index].count)
                if piece == 0 { continue }
                if isRead {
                    memcpy(elements[index].address, remote, piece)
                } else {
                    memcpy(remote, elements[index].address, piece)
                }
                remote += piece
            }
            return .finished(.success)
        case .refused: return .finished(.remoteAccess)
        case .unmapped: return awaitRegion(entry.pointee.remoteKey)
        case .served:
            // Once the owner has done it, the request comes here again for what is left to do.
            guard isDoneByOwner else { return .served }
            isDoneByOwner = false
            return .finished(.success)
        }
    }

    private func atomic(_ entry: UnsafeMutablePointer<SendEntry>, _ elements: UnsafeMutablePointer<ScatterElement>)
        -> Step
    {
        guard let device, entry.pointee.remoteAddress % 8 == 0 else { return .finished(.remoteAccess) }
        switch device.resolve(
            entry.pointee.remoteKey, address: entry.pointee.remoteAddress, count: 8, access: .atomic)
        {
        case .here(let remote):
            var former = entry.pointee.operand
            let word = remote.assumingMemoryBound(to: UInt64.self)
            if entry.pointee.opcode == .fetchAdd {
                former = lego_atomic_add_u64(word, former)
            } else {
                _ = lego_atomic_compare_exchange_u64(word, &former, entry.pointee.swap)
            }
            elements[0].address.storeBytes(of: former, as: UInt64.self)
            return .finished(.success)
        case .refused: return .finished(.remoteAccess)
        case .unmapped: return awaitRegion(entry.pointee.remoteKey)
        case .served:
            // Once the owner has done it, the request comes here again for what is left to do.
            guard isDoneByOwner else { return .served }
            isDoneByOwner = false
            return .finished(.success)
        }
    }

    private func awaitRegion(_ key: UInt32) -> Step {
        if unmappableKey.load(ordering: .acquiring) == key { return .finished(.remoteOperation) }
        wantedKey = key
        return .waiting
    }

    private func writeImmediate(
        _ entry: UnsafeMutablePointer<SendEntry>, _ elements: UnsafeMutablePointer<ScatterElement>
    ) -> Step {
        guard hasReceive else { return .waitingForReceive }
        guard hasRoom(RingRecord.size) else { return .waiting }
        switch transfer(entry, elements) {
        case .finished(.success): break
        case let other: return other
        }
        put(.immediate, piece: 0, of: entry.pointee.count, immediate: entry.pointee.immediate)
        publish()
        messagesSent &+= 1
        return .finished(.success)
    }

    private func send(_ entry: UnsafeMutablePointer<SendEntry>, _ elements: UnsafeMutablePointer<ScatterElement>)
        -> Step
    {
        let count = entry.pointee.count
        if sendOffset == 0 {
            guard hasReceive else { return .waitingForReceive }
            let lengths = theirs.word32(PairPage.lengthsOffset)
            if count > Int(lego_atomic_load_u32(lengths + Int(messagesSent % UInt64(theirReceives)))) {
                guard hasRoom(RingRecord.size) else { return .waiting }
                put(.tooLong, piece: 0, of: count, immediate: 0)
                publish()
                messagesSent &+= 1
                return .finished(.remoteOperation)
            }
        }
        repeat {
            let left = count &- sendOffset
            // Not less than a page at a time, so that a slow receiver does not make a long message crawl.
            guard hasRoom(RingRecord.footprint(min(left, 4096))) else {
                publish()
                return .waiting
            }
            let piece = min(left, roomBytes &- RingRecord.size)
            put(.send, piece: piece, of: count, immediate: 0)
            copyIntoRing(elements, entry.pointee.elementCount, from: sendOffset, count: piece)
            sendOffset &+= piece
        } while sendOffset < count
        sendOffset = 0
        publish()
        messagesSent &+= 1
        return .finished(.success)
    }

    /// Whether the peer has a receive for one more message.
    private var hasReceive: Bool {
        if creditCount > 0 { return true }
        askToBeWoken()
        return creditCount > 0
    }

    /// Receives that the peer has posted and no message has been sent for.
    private var creditCount: UInt64 {
        let credit = lego_atomic_load_u64(theirs.word64(PairPage.Word.posted)) &- messagesSent
        return credit <= UInt64(theirReceives) ? credit : 0
    }

    private var roomBytes: Int {
        let used = ringTail &- lego_atomic_load_u64(theirs.word64(PairPage.Word.ringHead))
        return used <= UInt64(PairPage.ringBytes) ? PairPage.ringBytes &- Int(used) : 0
    }

    private func hasRoom(_ count: Int) -> Bool {
        if roomBytes >= count { return true }
        publish()
        askToBeWoken()
        if roomBytes >= count { return true }
        // Like an adapter, the peer's device takes the message in although nobody polls there.
        device?.signal()
        return false
    }

    private func askToBeWoken() {
        lego_atomic_store_u32(mine.word32(PairPage.Word.senderWaits), 1)
        lego_atomic_fence()
    }

    /// Writes a record's head behind what has been put so far; not visible before `publish`.
    @inline(__always)
    private func put(_ kind: RingRecord.Kind, piece: Int, of count: Int, immediate: UInt32) {
        let record = RingRecord(
            kind: kind.rawValue, pieceCount: UInt32(piece), messageCount: UInt32(count), immediate: immediate)
        let offset = Int(ringTail % UInt64(PairPage.ringBytes))
        myRing.storeBytes(of: record, toByteOffset: offset, as: RingRecord.self)
        ringTail &+= UInt64(RingRecord.footprint(piece))
    }

    private func copyIntoRing(
        _ elements: UnsafeMutablePointer<ScatterElement>, _ elementCount: Int, from start: Int, count: Int
    ) {
        var position = Int(
            (ringTail &- UInt64(RingRecord.footprint(count) &- RingRecord.size)) % UInt64(PairPage.ringBytes))
        forEachPiece(elements, elementCount, from: start, count: count) { address, length in
            let untilEnd = min(length, PairPage.ringBytes &- position)
            memcpy(myRing + position, address, untilEnd)
            if untilEnd < length { memcpy(myRing, address + untilEnd, length &- untilEnd) }
            position = (position &+ length) % PairPage.ringBytes
        }
    }

    /// Shows the peer what has been put, and wakes it if it sleeps.
    private func publish() {
        if publishedTail == ringTail { return }
        publishedTail = ringTail
        lego_atomic_store_u64(mine.word64(PairPage.Word.ringTail), ringTail)
        lego_atomic_fence()
        if lego_atomic_load_u32(queueArmed) != 0, lego_atomic_exchange_u32(queueArmed, 0) != 0 {
            var one: UInt64 = 1
            _ = write(queueEvent, &one, 8)
        }
    }

    // MARK: Receive

    /// A receive has been posted: lets the peer know. On the poster's thread.
    func announce(_ index: Int, count: Int) {
        let lengths = mine.word32(PairPage.lengthsOffset)
        lego_atomic_store_u32(lengths + index % receives, UInt32(clamping: count))
        lego_atomic_store_u64(mine.word64(PairPage.Word.posted), UInt64(index &+ 1))
        lego_atomic_fence()
        wakeSender()
    }

    @inline(__always)
    private func wakeSender() {
        let word = theirs.word32(PairPage.Word.senderWaits)
        if lego_atomic_load_u32(word) != 0, lego_atomic_exchange_u32(word, 0) != 0 { device?.signal() }
    }

    /// Whether the ring holds something. Any thread; a hint.
    @inline(__always)
    var hasArrivals: Bool { lego_atomic_load_u64(theirs.word64(PairPage.Word.ringTail)) != ringHead }

    /// Whether the peer may be waiting for room in its ring. Any thread; a hint.
    var isAlmostFull: Bool {
        lego_atomic_load_u64(theirs.word64(PairPage.Word.ringTail)) &- ringHead > UInt64(PairPage.ringBytes / 2)
    }

    enum ReceiveStep {
        case empty
        /// A poll of the completion queue makes room, and comes back here.
        case completionsFull
        /// The peer broke the protocol, or a receive failed: the connection must end.
        case failed
    }

    /// Matches what has arrived with the posted receives. On the receive driver.
    func receive(_ queue: ReceiveQueue, into completions: SoftCompletionQueue, number: UInt32) -> ReceiveStep {
        let tail = lego_atomic_load_u64(theirs.word64(PairPage.Word.ringTail))
        if tail == ringHead { return .empty }
        guard tail &- ringHead <= UInt64(PairPage.ringBytes), tail % 16 == 0 else { return .failed }
        let before = receiveActivity.pointee
        lego_atomic_store_u32(receiveActivity, before &+ 1)
        lego_atomic_fence()
        defer {
            lego_atomic_store_u32(receiveActivity, before &+ 2)
            lego_atomic_store_u64(mine.word64(PairPage.Word.ringHead), ringHead)
            lego_atomic_fence()
            wakeSender()
        }
        while tail != ringHead {
            guard let record = nextRecord(until: tail), let receive = queue.first else { return .failed }
            let piece = Int(record.pieceCount)
            let isLast = receiveOffset &+ piece == Int(record.messageCount)
            guard completions.reserve() else { return .completionsFull }
            let status = take(record, into: receive, queue.firstElements)
            if status == .success, record.kind == RingRecord.Kind.send.rawValue, !isLast {
                completions.cancelReservation()
                continue
            }
            let isImmediate = record.kind == RingRecord.Kind.immediate.rawValue
            completions.push(
                WorkCompletion(
                    id: receive.pointee.id, status: status, kind: isImmediate ? .receiveImmediate : .receive,
                    count: record.messageCount, immediate: record.immediate, queuePair: number))
            receiveOffset = 0
            queue.retire()
            if status != .success { return .failed }
        }
        return .empty
    }

    /// The record at the head of the ring, checked. Nil when it is malformed.
    private func nextRecord(until tail: UInt64) -> RingRecord? {
        let offset = Int(ringHead % UInt64(PairPage.ringBytes))
        let record = theirRing.load(fromByteOffset: offset, as: RingRecord.self)
        let available = tail &- ringHead
        guard record.pieceCount <= UInt32(PairPage.ringBytes),
            record.messageCount <= UInt32(SoftLimits.messageBytes_max),
            UInt64(RingRecord.footprint(Int(record.pieceCount))) <= available
        else { return nil }
        switch RingRecord.Kind(rawValue: record.kind) {
        case .send:
            let left = Int(record.messageCount) &- receiveOffset
            guard Int(record.pieceCount) <= left, record.pieceCount > 0 || left == 0 else { return nil }
        case .immediate, .tooLong:
            guard record.pieceCount == 0, receiveOffset == 0 else { return nil }
        case nil: return nil
        }
        return record
    }

    /// Takes a checked record off the ring, into the receive that it belongs to.
    private func take(
        _ record: RingRecord, into receive: UnsafeMutablePointer<ReceiveEntry>,
        _ elements: UnsafeMutablePointer<ScatterElement>
    ) -> WorkStatus {
        let piece = Int(record.pieceCount)
        var position = Int((ringHead &+ UInt64(RingRecord.size)) % UInt64(PairPage.ringBytes))
        ringHead &+= UInt64(RingRecord.footprint(piece))
        switch RingRecord.Kind(rawValue: record.kind) {
        case .tooLong: return .localLength
        case .send: break
        default: return .success
        }
        guard Int(record.messageCount) <= receive.pointee.count else { return .localLength }
        guard table.allLocal(elements, receive.pointee.elementCount) else { return .localProtection }
        forEachPiece(elements, receive.pointee.elementCount, from: receiveOffset, count: piece) { address, length in
            let untilEnd = min(length, PairPage.ringBytes &- position)
            memcpy(address, theirRing + position, untilEnd)
            if untilEnd < length { memcpy(address + untilEnd, theirRing, length &- untilEnd) }
            position = (position &+ length) % PairPage.ringBytes
        }
        receiveOffset &+= piece
        return .success
    }

    // MARK: Deregistration

    /// Waits for the accesses to registered memory that are under way, of either end; `isPeerAlive` says whether the peer's still
    /// matter. On any thread but those of the drivers.
    func waitForAccesses(isPeerAlive: () -> Bool) {
        Self.waitForChange(mine.word32(PairPage.Word.activity)) { true }
        Self.waitForChange(receiveActivity) { true }
        Self.waitForChange(theirs.word32(PairPage.Word.activity), while: isPeerAlive)
    }

    static func waitForChange(_ word: UnsafeMutablePointer<UInt32>, while condition: () -> Bool) {
        let start = lego_atomic_load_u32(word)
        if start & 1 == 0 { return }
        var spins = 0
        while lego_atomic_load_u32(word) == start, condition() {
            spins += 1
            if spins < 1000 {
                lego_spin_pause()
            } else if spins < 2000 {
                sched_yield()
            } else {
                // A long copy, or an end that has been stopped: nobody wakes this word, so look again every millisecond.
                Futex.wait(word, while: start, until: .after(.milliseconds(1)))
            }
        }
    }
}

/// Calls `body` for the parts of a scatter list that hold bytes `from..<from + count` of the message.
@inline(__always)
func forEachPiece(
    _ elements: UnsafeMutablePointer<ScatterElement>, _ elementCount: Int, from start: Int, count: Int,
    _ body: (_ address: UnsafeMutableRawPointer, _ length: Int) -> Void
) {
    var skip = start
    var left = count
    for index in 0..<elementCount where left > 0 {
        let length = Int(elements[index].count)
        if skip >= length {
            skip &-= length
            continue
        }
        let piece = min(length &- skip, left)
        body(elements[index].address + skip, piece)
        left &-= piece
        skip = 0
    }
}
