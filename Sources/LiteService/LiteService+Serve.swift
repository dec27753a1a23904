import CLinux
import CLite
import Glibc
import Kernel
import Lite

extension LiteService {
    /// Serves one submission. Answers whether the leadership was given away for it.
    @inline(__always)
    func serve(_ channel: ServiceChannel, _ submission: lite_submission, _ staging: Staging) -> Bool {
        if submission.slot >= UInt16(LITE_SLOTS) {
            expel(channel.session)
            return false
        }
        switch lite_opcode(UInt32(submission.opcode)) {
        case LITE_OP_READ, LITE_OP_WRITE: return serveTransfer(channel, submission, staging)
        case LITE_OP_FETCH_ADD, LITE_OP_COMPARE_SWAP: return serveAtomic(channel, submission)
        case LITE_OP_RECEIVE:
            serveReceive(channel, submission)
            return false
        case LITE_OP_CALL, LITE_OP_SEND: return serveCall(channel, submission, staging)
        case LITE_OP_REPLY: return serveReply(channel, submission, staging)
        default:
            leadership.give()
            serveControl(channel, submission)
            return true
        }
    }

    /// Looks a region's handle up for bytes of it. On success the session's lock is held; else the answer is the
    /// status.
    @inline(__always)
    func lockRegion(
        _ session: Session, _ handle: UInt64, _ right: UInt8, _ offset: UInt64, _ count: UInt64,
        _ entry: inout HandleEntry
    ) -> Int32 {
        session.lock.lock()
        guard let pointer = session.handles.pointer(handle), pointer.pointee.kind == .region else {
            session.lock.unlock()
            return Code.handle
        }
        entry = pointer.pointee
        var status = Code.ok
        let (end, overflow) = offset.addingReportingOverflow(count)
        if count == 0 {
            status = Code.invalid
        } else if entry.isDead {
            status = Code.gone
        } else if entry.rights & right != right {
            status = Code.access
        } else if overflow || end > entry.bytes {
            status = Code.range
        }
        if status != Code.ok { session.lock.unlock() }
        return status
    }

    // MARK: Read and write

    /// Bytes that are copied under the session's lock, so that nothing needs to be counted: some 100 ns.
    private static var lockedBytes_max: UInt64 { 4096 }

    @inline(__always)
    private func serveTransfer(_ channel: ServiceChannel, _ submission: lite_submission, _ staging: Staging) -> Bool {
        let slot = Int(submission.slot)
        let isRead = submission.opcode == UInt8(LITE_OP_READ.rawValue)
        guard let data = channel.bytes(at: submission.data, count: submission.count) else {
            channel.complete(slot, Code.invalid)
            return false
        }
        let session = channel.session
        var entry = HandleEntry()
        let right = UInt8(isRead ? LITE_READ.rawValue : LITE_WRITE.rawValue)
        let whole = max(submission.count, submission.operand)
        if submission.count == 0 {
            channel.complete(slot, Code.invalid)
            return false
        }
        let status = lockRegion(session, submission.handle, right, submission.offset, whole, &entry)
        if status != Code.ok {
            channel.complete(slot, status)
            return false
        }
        if let local = entry.local, submission.count <= Self.lockedBytes_max {
            let place = local + Int(submission.offset)
            var word: UInt64 = 0
            if submission.flags & UInt8(LITE_FLAG_WORD) != 0, submission.count == 8 {
                if isRead {
                    word = place.loadUnaligned(as: UInt64.self)
                } else {
                    place.storeBytes(of: submission.operand2, as: UInt64.self)
                }
            } else if isRead {
                data.copyMemory(from: place, byteCount: Int(submission.count))
            } else {
                place.copyMemory(from: data, byteCount: Int(submission.count))
            }
            session.lock.unlock()
            channel.complete(slot, Code.ok, value: word)
            return false
        }
        guard let mapping = entry.mapping else {
            session.lock.unlock()
            channel.complete(slot, Code.handle)
            return false
        }
        mapping.begin()
        session.lock.unlock()
        return transferCounted(channel, submission, staging, mapping, data, isRead)
    }

    /// The same for what is long or on other nodes. The mapping counts the operation.
    @inline(never)
    private func transferCounted(
        _ channel: ServiceChannel, _ submission: lite_submission, _ staging: Staging, _ mapping: Mapping,
        _ data: UnsafeMutableRawPointer, _ isRead: Bool
    ) -> Bool {
        let waits = !mapping.isNear
        if waits { leadership.give() }
        let isWord = submission.flags & UInt8(LITE_FLAG_WORD) != 0 && submission.count == 8
        var word = submission.operand2
        let pairs = Self.pairs(of: channel.session)
        let status =
            isWord
            ? withUnsafeMutableBytes(of: &word) {
                transfer(mapping, submission.offset, 8, $0.baseAddress!, isRead: isRead, on: pairs, staging)
            } : transfer(mapping, submission.offset, Int(submission.count), data, isRead: isRead, on: pairs, staging)
        release(mapping)
        channel.complete(Int(submission.slot), status, value: isWord ? word : 0)
        return waits
    }

    /// Programs of high priority have queue pairs of their own where the node reserves some (LITE §6.2, HW-Sep).
    @inline(__always)
    private static func pairs(of session: Session) -> TransferPairs {
        session.priority == LITE_PRIORITY_HIGH.rawValue ? .reserved : .common
    }

    /// Ends an operation on a mapping; the last one takes it down if nobody has it open any more.
    @inline(__always)
    func release(_ mapping: Mapping) {
        if mapping.end() { retire(mapping) }
    }

    /// Copies between a channel and a region, piece by piece.
    func transfer(
        _ mapping: Mapping, _ offset: UInt64, _ count: Int, _ data: UnsafeMutableRawPointer, isRead: Bool,
        on pairs: TransferPairs, _ staging: Staging
    ) -> Int32 {
        var offset = offset
        var data = data
        var left = count
        var index = mapping.piece(at: offset)
        while left > 0, index < mapping.pieces.count {
            let piece = mapping.pieces[index]
            let inside = offset - piece.start
            let part = min(left, Int(piece.count - inside))
            if let local = piece.local {
                let place = local + Int(inside)
                if isRead {
                    data.copyMemory(from: place, byteCount: part)
                } else {
                    place.copyMemory(from: data, byteCount: part)
                }
            } else {
                let status = transferFar(piece, inside, part, data, isRead: isRead, on: pairs, staging)
                if status != Code.ok { return status }
            }
            offset += UInt64(part)
            data += part
            left -= part
            index += 1
        }
        return Code.ok
    }

    /// A part on another node, by way of the thread's staging memory. At most 1 MiB.
    private func transferFar(
        _ piece: MappedPiece, _ inside: UInt64, _ count: Int, _ data: UnsafeMutableRawPointer, isRead: Bool,
        on pairs: TransferPairs, _ staging: Staging
    ) -> Int32 {
        guard let peer = piece.peer else { return Code.noNode }
        let start = piece.offset + inside
        // On this host its memory is reached where it lies, once a transfer has shown the way.
        if peer.link == .sharedMemory,
            let place = node.beginAccess(peer, remoteOffset: start, count: count, isRead ? .read : .write)
        {
            if isRead {
                data.copyMemory(from: place, byteCount: count)
            } else {
                place.copyMemory(from: data, byteCount: count)
            }
            node.endAccess(peer)
            return Code.ok
        }
        var done = 0
        while done < count {
            let part = min(count - done, Staging.bytes)
            let transfer = Transfer(
                local: staging.base, remoteOffset: start + UInt64(done), count: part)
            let deadline = Deadline.after(configuration.nodeTimeout)
            if !isRead { staging.base.copyMemory(from: data + done, byteCount: part) }
            let status = withUnsafePointer(to: transfer) { pointer in
                let pieces = UnsafeBufferPointer(start: pointer, count: 1)
                return isRead
                    ? node.read(peer, pieces, on: pairs, until: deadline)
                    : node.write(peer, pieces, on: pairs, until: deadline)
            }
            if !status.isOK { return Code.noNode }
            if isRead { (data + done).copyMemory(from: staging.base, byteCount: part) }
            done += part
        }
        return Code.ok
    }

    // MARK: Atomics

    @inline(__always)
    private func serveAtomic(_ channel: ServiceChannel, _ submission: lite_submission) -> Bool {
        let slot = Int(submission.slot)
        let session = channel.session
        var entry = HandleEntry()
        if submission.offset % 8 != 0 {
            channel.complete(slot, Code.invalid)
            return false
        }
        let status = lockRegion(
            session, submission.handle, UInt8(LITE_WRITE.rawValue), submission.offset, 8, &entry)
        if status != Code.ok {
            channel.complete(slot, status)
            return false
        }
        let swaps = submission.opcode == UInt8(LITE_OP_COMPARE_SWAP.rawValue)
        if let local = entry.local {
            let word = (local + Int(submission.offset)).assumingMemoryBound(to: UInt64.self)
            let former = Self.change(word, submission.operand, submission.operand2, swaps: swaps)
            session.lock.unlock()
            channel.complete(slot, Code.ok, value: former)
            return false
        }
        guard let mapping = entry.mapping else {
            session.lock.unlock()
            channel.complete(slot, Code.handle)
            return false
        }
        mapping.begin()
        session.lock.unlock()
        let waits = !mapping.isNear
        if waits { leadership.give() }
        let (result, former) = changeFar(mapping, submission, swaps: swaps, on: Self.pairs(of: session))
        release(mapping)
        channel.complete(slot, result, value: former)
        return waits
    }

    /// Changes a word of this node's memory; answers what it held.
    static func change(
        _ word: UnsafeMutablePointer<UInt64>, _ operand: UInt64, _ operand2: UInt64, swaps: Bool
    ) -> UInt64 {
        if !swaps { return lego_atomic_add_u64(word, operand) }
        var expected = operand
        _ = lego_atomic_compare_exchange_u64(word, &expected, operand2)
        return expected
    }

    /// A word of a region that is spread or elsewhere. An emulated adapter's atomics and the processor's see each
    /// other; a real one's need not, so there the word's own node does it.
    private func changeFar(_ mapping: Mapping, _ submission: lite_submission, swaps: Bool, on pairs: TransferPairs) -> (
        Int32, UInt64
    ) {
        let piece = mapping.pieces[mapping.piece(at: submission.offset)]
        let inside = submission.offset - piece.start
        if let local = piece.local {
            let word = (local + Int(inside)).assumingMemoryBound(to: UInt64.self)
            return (Code.ok, Self.change(word, submission.operand, submission.operand2, swaps: swaps))
        }
        guard let peer = piece.peer else { return (Code.noNode, 0) }
        let place = piece.offset + inside
        if peer.link == .sharedMemory, let word = node.beginAccess(peer, remoteOffset: place, count: 8, .atomic) {
            defer { node.endAccess(peer) }
            let former = Self.change(
                word.assumingMemoryBound(to: UInt64.self), submission.operand, submission.operand2, swaps: swaps)
            return (Code.ok, former)
        }
        if peer.link == .verbs {
            let answer = ask(
                piece.node, ClusterRequest(.atomic, place, submission.operand, submission.operand2, swaps ? 1 : 0))
            return (answer.status, answer[0])
        }
        var former: UInt64 = 0
        let deadline = Deadline.after(configuration.nodeTimeout)
        let status =
            swaps
            ? node.compareSwap(
                peer, remoteOffset: place, expected: submission.operand, desired: submission.operand2, former: &former,
                on: pairs, until: deadline)
            : node.fetchAdd(
                peer, remoteOffset: place, add: submission.operand, former: &former, on: pairs, until: deadline)
        return (status.isOK ? Code.ok : Code.noNode, former)
    }
}
