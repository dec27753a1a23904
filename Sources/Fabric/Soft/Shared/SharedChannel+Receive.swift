import CLinux
import Glibc
import Kernel
import Synchronization

extension SharedChannel {
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

    /// How much of the ring has been taken, as the peer is told: `ringHead` itself is the receive driver's.
    @inline(__always)
    private var publishedHead: UInt64 { lego_atomic_load_u64(mine.word64(PairPage.Word.ringHead)) }

    /// Whether the ring holds something. Any thread; a hint.
    @inline(__always)
    var hasArrivals: Bool { lego_atomic_load_u64(theirs.word64(PairPage.Word.ringTail)) != publishedHead }

    /// Whether the peer may be waiting for room in its ring. Any thread; a hint.
    var isAlmostFull: Bool {
        lego_atomic_load_u64(theirs.word64(PairPage.Word.ringTail)) &- publishedHead > UInt64(PairPage.ringBytes / 2)
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
}
