import CLinux
import CLite
import Glibc
import Kernel
import Lite

extension LiteService {
    /// Serves what was taken from a channel together. The leader; waits for nothing.
    @inline(__always)
    func serve(_ channel: ServiceChannel, _ bench: Workbench, _ count: Int) {
        let submission = bench.batch[0]
        switch lite_opcode(UInt32(submission.opcode)) {
        case LITE_OP_READ, LITE_OP_WRITE: serveTransfers(channel, bench, count)
        case _ where submission.slot >= UInt16(LITE_SLOTS): expel(channel.session)
        case LITE_OP_FETCH_ADD, LITE_OP_COMPARE_SWAP: serveAtomic(channel, submission)
        case LITE_OP_RECEIVE: serveReceive(channel, submission)
        case LITE_OP_CALL, LITE_OP_SEND: serveCall(channel, submission)
        case LITE_OP_REPLY: serveReply(channel, submission)
        case LITE_OP_REPLY_RECEIVE: serveReplyReceive(channel, submission)
        case LITE_OP_CANCEL: serveCancel(channel, submission)
        default: `defer`(channel, submission, to: lane(for: submission, of: channel.session))
        }
    }

    /// Serves what may wait for another node. A thread that runs a lane.
    func serveDeferred(_ channel: ServiceChannel, _ submission: lite_submission) {
        switch lite_opcode(UInt32(submission.opcode)) {
        case LITE_OP_READ, LITE_OP_WRITE: transferDeferred(channel, submission)
        case LITE_OP_FETCH_ADD, LITE_OP_COMPARE_SWAP: changeDeferred(channel, submission)
        case LITE_OP_CALL, LITE_OP_SEND, LITE_OP_REPLY: sendDeferred(channel, submission)
        default: serveControl(channel, submission)
        }
    }

    /// Looks a region's handle up for bytes of it: the entry, or why not. The session's lock is held.
    @inline(__always)
    func findRegionLocked(
        _ session: Session, _ handle: UInt64, _ right: UInt8, _ offset: UInt64, _ count: UInt64,
        _ found: inout HandleEntry
    ) -> Int32 {
        guard let entry = session.handles.pointer(handle), entry.pointee.kind == .region else { return Code.handle }
        let (end, overflow) = offset.addingReportingOverflow(count)
        if count == 0 { return Code.invalid }
        if entry.pointee.isDead { return Code.gone }
        if entry.pointee.rights & right != right { return Code.access }
        if overflow || end > entry.pointee.bytes { return Code.range }
        found = entry.pointee
        return Code.ok
    }

    /// The same, and begins an operation on the mapping, which `release` ends: this is how one leaves the lock.
    func beginOperation(
        _ session: Session, _ handle: UInt64, _ right: UInt32, _ offset: UInt64, _ count: UInt64
    ) -> (status: Int32, mapping: Mapping?) {
        session.lock.lock()
        defer { session.lock.unlock() }
        var entry = HandleEntry()
        let status = findRegionLocked(session, handle, UInt8(right), offset, count, &entry)
        if status != Code.ok { return (status, nil) }
        guard let mapping = entry.mapping else { return (Code.handle, nil) }
        mapping.begin()
        return (Code.ok, mapping)
    }

    /// Ends an operation on a mapping; the last one takes it down if nobody has it open any more.
    @inline(__always)
    func release(_ mapping: Mapping) {
        if mapping.end() { retire(mapping) }
    }

    /// Programs of high priority have queue pairs of their own where the node reserves some (LITE §6.2, HW-Sep).
    @inline(__always)
    static func pairs(of session: Session) -> TransferPairs {
        session.priority == LITE_PRIORITY_HIGH.rawValue ? .reserved : .common
    }

    // MARK: Atomics

    @inline(__always)
    private func serveAtomic(_ channel: ServiceChannel, _ submission: lite_submission) {
        let slot = Int(submission.slot)
        let session = channel.session
        if submission.offset % 8 != 0 { return channel.complete(slot, Code.invalid) }
        var entry = HandleEntry()
        session.lock.lock()
        let status = findRegionLocked(
            session, submission.handle, UInt8(LITE_WRITE.rawValue), submission.offset, 8, &entry)
        if status != Code.ok {
            session.lock.unlock()
            return channel.complete(slot, status)
        }
        if let local = entry.local {
            let word = (local + Int(submission.offset)).assumingMemoryBound(to: UInt64.self)
            let swaps = submission.opcode == UInt8(LITE_OP_COMPARE_SWAP.rawValue)
            let former = Self.change(word, submission.operand, submission.operand2, swaps: swaps)
            session.lock.unlock()
            return channel.complete(slot, Code.ok, value: former)
        }
        let lane = entry.mapping?.lane(at: submission.offset)
        session.lock.unlock()
        if let lane { return `defer`(channel, submission, to: lane) }
        changeDeferred(channel, submission)
    }

    /// A word of a region that is spread or elsewhere.
    private func changeDeferred(_ channel: ServiceChannel, _ submission: lite_submission) {
        let slot = Int(submission.slot)
        let (status, found) = beginOperation(
            channel.session, submission.handle, LITE_WRITE.rawValue, submission.offset, 8)
        guard let mapping = found else { return channel.complete(slot, status) }
        let swaps = submission.opcode == UInt8(LITE_OP_COMPARE_SWAP.rawValue)
        let (result, former) = changeFar(mapping, submission, swaps: swaps, on: Self.pairs(of: channel.session))
        release(mapping)
        channel.complete(slot, result, value: former)
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
