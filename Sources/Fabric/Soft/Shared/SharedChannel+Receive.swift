import CLinux
import Glibc
import Kernel
import Synchronization

extension SharedChannel {
    /// A receive has been posted: lets the peer know. On the poster's thread.
    func announce(_ index: Int, count: Int) {
        let lengths = mine.word32(PairPage.lengthsOffset)
        lego_atomic_store_u32(lengths + index % receives, UInt32(clamping: count))
        _ = lego_atomic_exchange_u64(mine.word64(PairPage.Word.posted), UInt64(index &+ 1))
        wakeSender()
    }

    /// After a full barrier: either this sees that the peer waits, or the peer's last look before it waits sees the room.
    @inline(__always)
    func wakeSender() {
        let word = theirs.word32(PairPage.Word.senderWaits)
        if lego_atomic_load_u32(word) != 0, lego_atomic_exchange_u32(word, 0) != 0 {
            withDevice(()) { $0.signal() }
        }
    }

    /// Whether a piece has come that nobody has taken. Any thread; a hint.
    @inline(__always)
    var hasArrivals: Bool { isThere(lego_atomic_load_u64(mine.word64(PairPage.Word.slotHead))) }

    @inline(__always)
    private func isThere(_ number: UInt64) -> Bool {
        lego_atomic_load_u32(theirs.slot(number).stamp) == PieceSlot.stamp(number)
    }

    /// Whether the peer waits, perhaps for room. Any thread; a hint.
    var mayBeFull: Bool { lego_atomic_load_u32(theirs.word32(PairPage.Word.senderWaits)) != 0 }

    enum ReceiveStep {
        case empty
        /// There is more, or may be: whoever polls comes back here.
        case batchFull
        /// A poll of the completion queue makes room, and comes back here.
        case completionsFull
        /// The peer broke the protocol, or a receive failed: the connection must end.
        case failed
    }

    /// Completions that are handed on together.
    private static var batch_max: Int { 16 }

    /// Matches what has arrived with the posted receives. On the receive driver, whose begin is the barrier between a
    /// deregistration's refusal and its wait (`waitForAccesses`).
    @inline(__always)
    func receive(_ pair: SoftQueuePair, _ poll: inout SoftCompletionQueue.Poll, _ due: inout Wakeups) -> ReceiveStep {
        if !isThere(slotHead) { return .empty }
        defer {
            lego_atomic_store_u64(mine.word64(PairPage.Word.ringHead), ringHead)
            lego_atomic_store_u64(mine.word64(PairPage.Word.slotHead), slotHead)
            due.insert(.peer)
        }
        if poll.count < poll.completions.count, pair.receiveCompletions.isEmpty {
            return receiveBatch(pair, poll.room, &poll.count, isDirect: true)
        }
        return receiveThroughQueue(pair, &due)
    }

    /// Where nobody polls, or something older waits in the completion queue.
    @inline(never)
    private func receiveThroughQueue(_ pair: SoftQueuePair, _ due: inout Wakeups) -> ReceiveStep {
        withUnsafeTemporaryAllocation(of: WorkCompletion.self, capacity: Self.batch_max) { batch in
            let start = slotHead
            var step = ReceiveStep.batchFull
            // A peer that does not stop sending keeps nobody here: what comes later is the next poll's.
            while case .batchFull = step, slotHead &- start < UInt64(PairPage.slots) {
                var count = 0
                step = receiveBatch(pair, batch, &count, isDirect: false)
                if count == 0 { continue }
                pair.receiveCompletions.add(UnsafeMutableBufferPointer(rebasing: batch[..<count]))
                due.insert(.poller)
            }
            if case .batchFull = step, !isThere(slotHead) { return .empty }
            return step
        }
    }

    /// Takes pieces until the batch is full, and counts the completions that it now holds. Those that do not go straight to
    /// a poll have a place in the completion queue.
    @inline(__always)
    private func receiveBatch(
        _ pair: SoftQueuePair, _ batch: UnsafeMutableBufferPointer<WorkCompletion>, _ total: inout Int, isDirect: Bool
    ) -> ReceiveStep {
        let completions = pair.receiveCompletions
        var count = 0
        defer { total &+= count }
        while count < batch.count {
            if !isThere(slotHead) { return .empty }
            let slot = theirs.slot(slotHead)
            let head = slot.read()
            guard isSound(head), let receive = pair.receiveQueue.first else { return .failed }
            guard isDirect || completions.reserve() else { return .completionsFull }
            let isLast = receiveOffset &+ Int(head.count) == Int(head.messageCount)
            let status = take(head, slot, into: receive, pair.receiveQueue.firstElements)
            if status == .success, head.kind == PieceHead.Kind.send.rawValue, !isLast {
                if !isDirect { completions.cancelReservation() }
                continue
            }
            let isImmediate = head.kind == PieceHead.Kind.immediate.rawValue
            batch[count] = WorkCompletion(
                id: receive.pointee.id, status: status, kind: isImmediate ? .receiveImmediate : .receive,
                count: head.messageCount, immediate: head.immediate, queuePair: pair.number)
            count &+= 1
            receiveOffset = 0
            pair.receiveQueue.retire()
            if status != .success { return .failed }
        }
        return .batchFull
    }

    /// Whether a piece may be what it says.
    @inline(__always)
    private func isSound(_ head: PieceHead) -> Bool {
        guard head.count <= UInt32(PairPage.ringBytes), head.messageCount <= UInt32(SoftLimits.messageBytes_max) else {
            return false
        }
        switch PieceHead.Kind(rawValue: head.kind) {
        case .send:
            let left = Int(head.messageCount) &- receiveOffset
            return Int(head.count) <= left && (head.count > 0 || left == 0)
        case .immediate, .tooLong: return head.count == 0 && receiveOffset == 0
        case nil: return false
        }
    }

    /// Takes a checked piece into the receive that it belongs to.
    @inline(__always)
    private func take(
        _ head: PieceHead, _ slot: PieceSlot, into receive: UnsafeMutablePointer<ReceiveEntry>,
        _ elements: UnsafeMutablePointer<ScatterElement>
    ) -> WorkStatus {
        let count = Int(head.count)
        let position = Int(ringHead % UInt64(PairPage.ringBytes))
        slotHead &+= 1
        ringHead &+= UInt64(PieceHead.footprint(count))
        switch PieceHead.Kind(rawValue: head.kind) {
        case .tooLong: return .localLength
        case .send: break
        default: return .success
        }
        guard Int(head.messageCount) <= receive.pointee.count else { return .localLength }
        guard table.allLocal(elements, receive.pointee.elementCount) else { return .localProtection }
        if count <= PieceSlot.inlineBytes_max {
            var source = slot.payload
            forEachPiece(elements, receive.pointee.elementCount, from: receiveOffset, count: count) { address, length in
                copyShort(address, source, length)
                source += length
            }
        } else {
            copyOutOfRing(position, receive.pointee.elementCount, elements, count)
        }
        receiveOffset &+= count
        return .success
    }

    private func copyOutOfRing(
        _ start: Int, _ elementCount: Int, _ elements: UnsafeMutablePointer<ScatterElement>, _ count: Int
    ) {
        var position = start
        forEachPiece(elements, elementCount, from: receiveOffset, count: count) { address, length in
            let untilEnd = min(length, PairPage.ringBytes &- position)
            memcpy(address, theirRing + position, untilEnd)
            if untilEnd < length { memcpy(address + untilEnd, theirRing, length &- untilEnd) }
            position = (position &+ length) % PairPage.ringBytes
        }
    }
}
