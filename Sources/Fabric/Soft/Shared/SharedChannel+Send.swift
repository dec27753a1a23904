import CLinux
import Glibc
import Kernel
import Synchronization

extension SharedChannel {
    /// Tries the request at the head of the send queue. On the send driver.
    func execute(_ entry: UnsafeMutablePointer<SendEntry>, _ elements: UnsafeMutablePointer<ScatterElement>) -> Step {
        if entry.pointee.verdict != .success { return .finished(entry.pointee.verdict) }
        // The bytes of a short message are in the queue: no registered memory is touched.
        if entry.pointee.isInline, entry.pointee.opcode == .send { return executeActive(entry, elements) }
        return whileActive { executeActive(entry, elements) }
    }

    /// Runs `body` while a deregistration waits for this end. It stores the table and then looks at the word; here it
    /// is the other way round.
    @inline(__always)
    func whileActive<Value>(_ body: () -> Value) -> Value {
        let word = mine.word32(PairPage.Word.activity)
        activity &+= 1
        _ = lego_atomic_exchange_u32(word, activity)
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
        switch resolve(
            entry.pointee.remoteKey, address: entry.pointee.remoteAddress, count: count, isRead ? .read : .write)
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
        guard entry.pointee.remoteAddress % 8 == 0 else { return .finished(.remoteAccess) }
        switch resolve(entry.pointee.remoteKey, address: entry.pointee.remoteAddress, count: 8, .atomic) {
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
        guard hasRoom(0) else { return .waiting }
        switch transfer(entry, elements) {
        case .finished(.success): break
        case let other: return other
        }
        put(.immediate, of: entry.pointee.count, immediate: entry.pointee.immediate)
        messagesSent &+= 1
        return .finished(.success)
    }

    private func send(_ entry: UnsafeMutablePointer<SendEntry>, _ elements: UnsafeMutablePointer<ScatterElement>)
        -> Step
    {
        let count = entry.pointee.count
        if sendOffset == 0 {
            guard hasReceive else { return .waitingForReceive }
            if count > Int(lengthsSeen[lengthPlace(messagesSent)]) {
                guard hasRoom(0) else { return .waiting }
                put(.tooLong, of: count)
                messagesSent &+= 1
                return .finished(.remoteOperation)
            }
        }
        repeat {
            let piece = min(count &- sendOffset, Self.pieceBytes(count))
            guard hasRoom(PieceHead.footprint(piece)) else { return .waiting }
            put(.send, of: count, piece: piece) { slot in
                copyPiece(elements, entry.pointee.elementCount, from: sendOffset, count: piece, slot)
            }
            sendOffset &+= piece
        } while sendOffset < count
        sendOffset = 0
        messagesSent &+= 1
        return .finished(.success)
    }

    /// Where the length of a receive is.
    @inline(__always)
    private func lengthPlace(_ receive: UInt64) -> Int { Int(receive % UInt64(theirReceives)) }

    /// A long message goes in pieces: the receiver copies one while the next is being written. So large that a piece's
    /// own cost, some 50 ns, does not show.
    @inline(__always)
    private static func pieceBytes(_ count: Int) -> Int { count <= 8 << 10 ? 2 << 10 : 8 << 10 }

    /// Whether the peer has a receive for one more message.
    @inline(__always)
    private var hasReceive: Bool { postedSeen != messagesSent || hasReceiveNow }

    @inline(never)
    private var hasReceiveNow: Bool {
        lookForReceives()
        if postedSeen != messagesSent { return true }
        askToBeWoken()
        lookForReceives()
        return postedSeen != messagesSent
    }

    /// Looks how many receives the peer has posted, once those that were seen are used up; an absurd number is none.
    private func lookForReceives() {
        let posted = lego_atomic_load_u64(theirs.word64(PairPage.Word.posted)) &- messagesSent
        if posted > UInt64(theirReceives) { return }
        let lengths = theirs.word32(PairPage.lengthsOffset)
        for receive in messagesSent..<messagesSent &+ posted {
            let place = lengthPlace(receive)
            lengthsSeen[place] = lego_atomic_load_u32(lengths + place)
        }
        postedSeen = messagesSent &+ posted
    }

    /// Whether there is a slot for a piece, and so many bytes of the ring.
    @inline(__always)
    private func hasRoom(_ footprint: Int) -> Bool { hasRoomSeen(footprint) || hasRoomNow(footprint) }

    @inline(__always)
    private func hasRoomSeen(_ footprint: Int) -> Bool {
        slotTail &- slotHeadSeen < UInt64(PairPage.slots)
            && ringTail &- ringHeadSeen &+ UInt64(footprint) <= UInt64(PairPage.ringBytes)
    }

    @inline(never)
    private func hasRoomNow(_ footprint: Int) -> Bool {
        lookForRoom()
        if hasRoomSeen(footprint) { return true }
        askToBeWoken()
        lookForRoom()
        if hasRoomSeen(footprint) { return true }
        // Like an adapter, the peer's device takes the message in although nobody polls there.
        withDevice(()) { $0.signal() }
        return false
    }

    /// Looks what the peer has taken; more than was put, or less than before, is not believed.
    private func lookForRoom() {
        let slots = lego_atomic_load_u64(theirs.word64(PairPage.Word.slotHead))
        let bytes = lego_atomic_load_u64(theirs.word64(PairPage.Word.ringHead))
        if slotTail &- slots <= slotTail &- slotHeadSeen { slotHeadSeen = slots }
        if ringTail &- bytes <= ringTail &- ringHeadSeen { ringHeadSeen = bytes }
    }

    private func askToBeWoken() { _ = lego_atomic_exchange_u32(mine.word32(PairPage.Word.senderWaits), 1) }

    /// Puts a piece into its slot, for which there is room, and shows it to the peer, which is to be woken if it sleeps.
    @inline(__always)
    private func put(
        _ kind: PieceHead.Kind, of count: Int, piece: Int = 0, immediate: UInt32 = 0,
        _ copy: (PieceSlot) -> Void = { _ in }
    ) {
        let slot = mine.slot(slotTail)
        slot.write(
            PieceHead(
                kind: kind.rawValue, count: UInt32(truncatingIfNeeded: piece),
                messageCount: UInt32(truncatingIfNeeded: count), immediate: immediate))
        copy(slot)
        lego_atomic_store_u32(slot.stamp, PieceSlot.stamp(slotTail))
        slotTail &+= 1
        ringTail &+= UInt64(PieceHead.footprint(piece))
        sendWakeups.insert(.peer)
    }

    /// After a full barrier: either this sees that the peer has armed, or the poll that follows the arming sees the pieces.
    @inline(__always)
    func wakePeerIfArmed() { if lego_atomic_load_u32(queueArmed) != 0 { wakePeer() } }

    @inline(never)
    private func wakePeer() {
        if lego_atomic_exchange_u32(queueArmed, 0) == 0 { return }
        var one: UInt64 = 1
        _ = write(queueEvent, &one, 8)
    }

    /// Copies the bytes of a piece into its slot, or into the ring.
    @inline(__always)
    private func copyPiece(
        _ elements: UnsafeMutablePointer<ScatterElement>, _ elementCount: Int, from start: Int, count: Int,
        _ slot: PieceSlot
    ) {
        if count <= PieceSlot.inlineBytes_max {
            var target = slot.payload
            forEachPiece(elements, elementCount, from: start, count: count) { address, length in
                copyShort(target, address, length)
                target += length
            }
        } else {
            copyIntoRing(elements, elementCount, from: start, count: count)
        }
    }

    private func copyIntoRing(
        _ elements: UnsafeMutablePointer<ScatterElement>, _ elementCount: Int, from start: Int, count: Int
    ) {
        var position = Int(ringTail % UInt64(PairPage.ringBytes))
        forEachPiece(elements, elementCount, from: start, count: count) { address, length in
            let untilEnd = min(length, PairPage.ringBytes &- position)
            memcpy(myRing + position, address, untilEnd)
            if untilEnd < length { memcpy(myRing, address + untilEnd, length &- untilEnd) }
            position = (position &+ length) % PairPage.ringBytes
        }
    }
}
