import CLinux
import Glibc
import Kernel
import Synchronization

extension SharedChannel {
    /// Tries the request at the head of the send queue. On the send driver.
    func execute(_ entry: UnsafeMutablePointer<SendEntry>, _ elements: UnsafeMutablePointer<ScatterElement>) -> Step {
        if entry.pointee.verdict != .success { return .finished(entry.pointee.verdict) }
        return whileActive { executeActive(entry, elements) }
    }

    /// Runs `body` while a deregistration waits for this end. It stores the table and then looks at the word; here it
    /// is the other way round.
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
}
