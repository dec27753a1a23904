import CLinux
import CLite
import Kernel
import Lite

// Operations that are not on the fast path. They run in a lane, as they may wait for other nodes.
extension LiteService {
    /// The lane for an operation: of the node that it needs; or the one for all that may need several.
    func lane(for submission: lite_submission, of session: Session) -> Lane {
        switch lite_opcode(UInt32(submission.opcode)) {
        case LITE_OP_SET, LITE_OP_COPY, LITE_OP_MOVE, LITE_OP_UNMAP:
            lane(of: submission.handle, at: submission.offset, session)
        case LITE_OP_ALLOCATE, LITE_OP_FREE, LITE_OP_NAME, LITE_OP_MAP, LITE_OP_GRANT, LITE_OP_REVOKE,
            LITE_OP_LOCK_OPEN, LITE_OP_BARRIER:
            lanes.search
        case LITE_OP_LOCK, LITE_OP_UNLOCK, LITE_OP_LOCK_CLOSE:
            session.findLock(submission.handle).map { lane(of: $0.home) } ?? lanes.own
        default: lanes.own
        }
    }

    func lane(of node: UInt64) -> Lane { node == own ? lanes.own : lanes.of(node) }

    /// Where an operation on a region's byte waits.
    func lane(of handle: UInt64, at offset: UInt64, _ session: Session) -> Lane {
        session.lock.lock()
        defer { session.lock.unlock() }
        guard let mapping = session.handles.pointer(handle)?.pointee.mapping, offset < mapping.bytes else {
            return lanes.own
        }
        return mapping.lane(at: offset) ?? lane(of: mapping.id.node)
    }

    func serveControl(_ channel: ServiceChannel, _ submission: lite_submission) {
        let slot = Int(submission.slot)
        let session = channel.session
        let handle = submission.handle
        switch lite_opcode(UInt32(submission.opcode)) {
        case LITE_OP_SET: channel.complete(slot, fill(session, submission))
        case LITE_OP_COPY: channel.complete(slot, copy(session, submission, mayOverlap: false))
        case LITE_OP_MOVE: channel.complete(slot, copy(session, submission, mayOverlap: true))
        case LITE_OP_ALLOCATE: serveAllocate(channel, submission)
        case LITE_OP_FREE: channel.complete(slot, free(session, handle))
        case LITE_OP_NAME:
            channel.complete(slot, name(channel, submission).map { nameRegion(session, handle, $0) } ?? Code.invalid)
        case LITE_OP_MAP: serveMap(channel, submission)
        case LITE_OP_UNMAP: channel.complete(slot, closeRegion(session, handle))
        case LITE_OP_GRANT, LITE_OP_REVOKE:
            let grants = submission.opcode == UInt8(LITE_OP_GRANT.rawValue)
            channel.complete(
                slot, changeRights(session, handle, submission.operand, submission.operand2, grants: grants))
        case LITE_OP_NODES: serveNodes(channel, submission)
        case LITE_OP_NODE_NAMED:
            let found = name(channel, submission).flatMap { findNode(named: $0) }
            channel.complete(slot, found == nil ? Code.noName : Code.ok, value: found ?? 0)
        case LITE_OP_REGISTER: channel.complete(slot, register(session, submission))
        case LITE_OP_UNREGISTER: channel.complete(slot, unregister(session, submission.handle))
        case LITE_OP_LOCK_OPEN: serveOpenLock(channel, submission)
        case LITE_OP_LOCK: serveLock(channel, submission)
        case LITE_OP_UNLOCK: channel.complete(slot, unlock(session, handle))
        case LITE_OP_LOCK_CLOSE: channel.complete(slot, closeLock(session, handle, hasEnded: false))
        case LITE_OP_BARRIER: serveBarrier(channel, submission)
        case LITE_OP_CANCEL: cancelDeferred(channel, submission)
        case LITE_OP_BUFFER_MAKE: serveMakeBuffer(channel, submission)
        case LITE_OP_BUFFER_DROP: channel.complete(slot, dropBuffer(session, submission.operand))
        default: channel.complete(slot, Code.invalid)
        }
    }

    /// The name that a submission carries; nil when it is none.
    func name(_ channel: ServiceChannel, _ submission: lite_submission) -> String? {
        guard (1...UInt64(LITE_NAME_MAX)).contains(submission.count),
            let data = channel.bytes(at: submission.data, count: submission.count)
        else { return nil }
        // A copy: the program may change the original between two looks at it.
        let bytes = [UInt8](UnsafeRawBufferPointer(start: data, count: Int(submission.count)))
        return bytes.contains(0) ? nil : String(validating: bytes, as: UTF8.self)
    }

    private func serveNodes(_ channel: ServiceChannel, _ submission: lite_submission) {
        guard submission.count % 8 == 0, let data = channel.bytes(at: submission.data, count: submission.count) else {
            return channel.complete(Int(submission.slot), Code.invalid)
        }
        let nodes = [own] + control.withLock { $0.members.keys.sorted() }
        for (index, node) in nodes.prefix(Int(submission.count / 8)).enumerated() {
            data.storeBytes(of: node, toByteOffset: index * 8, as: UInt64.self)
        }
        channel.complete(Int(submission.slot), Code.ok, value: UInt64(nodes.count))
    }

    private func findNode(named name: String) -> UInt64? {
        if name == configuration.name { return own }
        return control.withLock { state in state.members.first { $0.value.name == name }?.key }
    }

    /// Withdraws what still waits. It has no completion of its own. The leader.
    func serveCancel(_ channel: ServiceChannel, _ submission: lite_submission) {
        let slot = Int(submission.slot)
        let sequence = UInt32(truncatingIfNeeded: submission.operand)
        guard let (wait, token) = channel.current(slot, sequence: sequence) else { return }
        switch wait.kind {
        case .none, .delivery: break
        case .call, .receive:
            guard channel.claim(token) != nil else { return }
            if wait.kind == .receive { functions.find(wait.object)?.withdraw(token) }
            channel.complete(slot, Code.timedOut)
        case .lock, .barrier: `defer`(channel, submission, to: lane(of: wait.home))
        }
    }

    /// The same for what another node keeps: it is withdrawn there before the program goes on.
    private func cancelDeferred(_ channel: ServiceChannel, _ submission: lite_submission) {
        let slot = Int(submission.slot)
        guard let wait = channel.claim(slot, sequence: UInt32(truncatingIfNeeded: submission.operand)) else { return }
        let token = WaitToken(channel: channel.number, slot: slot, generation: wait.generation)
        if wait.kind == .lock {
            _ = ask(wait.home, ClusterRequest(.withdraw, wait.object, channel.session.id, token.rawValue))
        } else {
            departBarrier(wait, token, channel.session)
        }
        channel.complete(slot, Code.timedOut)
    }

    // MARK: Memory operations

    private func fill(_ session: Session, _ submission: lite_submission) -> Int32 {
        let (status, found) = beginOperation(
            session, submission.handle, LITE_WRITE.rawValue, submission.offset, submission.count)
        guard let mapping = found else { return status }
        defer { release(mapping) }
        var offset = submission.offset
        let end = offset + submission.count
        while offset < end {
            let piece = mapping.pieces[mapping.piece(at: offset)]
            let inside = offset - piece.start
            let part = min(end - offset, piece.count - inside, Self.part_max)
            let answer = ask(
                piece.node, ClusterRequest(.fill, piece.offset + inside, part, submission.operand & 0xff))
            if answer.status != Code.ok { return answer.status }
            offset += part
        }
        return Code.ok
    }

    /// What a node does at a time for another, so that it answers in time.
    private static var part_max: UInt64 { 64 << 20 }

    private func copy(_ session: Session, _ submission: lite_submission, mayOverlap: Bool) -> Int32 {
        let count = submission.count
        let to = submission.offset
        let from = submission.operand2
        let (status, foundTo) = beginOperation(session, submission.handle, LITE_WRITE.rawValue, to, count)
        guard let target = foundTo else { return status }
        defer { release(target) }
        let (status2, foundFrom) = beginOperation(session, submission.operand, LITE_READ.rawValue, from, count)
        guard let source = foundFrom else { return status2 }
        defer { release(source) }
        let overlaps = target.id == source.id && to < from + count && from < to + count
        if overlaps, !mayOverlap { return Code.invalid }
        // Where they overlap, bytes are read before they are written over: from the far end when moving up.
        let backward = overlaps && to > from
        var done: UInt64 = 0
        while done < count {
            let left = count - done
            let part: UInt64
            let at: UInt64
            if backward {
                let target = target.before(to + left)
                let source = source.before(from + left)
                part = min(left, target, source, Self.part_max)
                at = left - part
            } else {
                part = min(left, target.after(to + done), source.after(from + done), Self.part_max)
                at = done
            }
            let status = copyPart(target, to + at, source, from + at, part)
            if status != Code.ok { return status }
            done += part
        }
        return Code.ok
    }

    /// A part that lies in one piece of either region.
    private func copyPart(_ target: Mapping, _ to: UInt64, _ source: Mapping, _ from: UInt64, _ count: UInt64) -> Int32
    {
        let targetPiece = target.pieces[target.piece(at: to)]
        let sourcePiece = source.pieces[source.piece(at: from)]
        let toPlace = targetPiece.offset + (to - targetPiece.start)
        let fromPlace = sourcePiece.offset + (from - sourcePiece.start)
        let request =
            targetPiece.node == sourcePiece.node
            ? ClusterRequest(.move, toPlace, fromPlace, count)
            : ClusterRequest(.push, targetPiece.node, toPlace, fromPlace, count)
        return ask(sourcePiece.node, request).status
    }

    // MARK: The same, at the node that has the memory

    /// A range of this node's arena; nil for anything else.
    private func arena(_ offset: UInt64, _ count: UInt64) -> UnsafeMutableRawPointer? {
        let start = poolBytes - configuration.arenaBytes
        guard offset >= start, offset <= poolBytes, count <= poolBytes - offset else { return nil }
        return pool + Int(offset)
    }

    func answerFill(_ request: ClusterRequest) -> ClusterAnswer {
        guard let place = arena(request[0], request[1]) else { return ClusterAnswer(Code.range) }
        place.initializeMemory(as: UInt8.self, repeating: UInt8(request[2] & 0xff), count: Int(request[1]))
        return ClusterAnswer(Code.ok)
    }

    func answerMove(_ request: ClusterRequest) -> ClusterAnswer {
        guard let to = arena(request[0], request[2]), let from = arena(request[1], request[2]) else {
            return ClusterAnswer(Code.range)
        }
        // Moves, whether the ranges overlap or not.
        to.copyMemory(from: from, byteCount: Int(request[2]))
        return ClusterAnswer(Code.ok)
    }

    func answerPush(_ request: ClusterRequest) -> ClusterAnswer {
        guard let from = arena(request[2], request[3]) else { return ClusterAnswer(Code.range) }
        guard let peer = member(request[0]) else { return ClusterAnswer(Code.noNode) }
        let transfer = Transfer(local: from, remoteOffset: request[1], count: Int(request[3]))
        let status = withUnsafePointer(to: transfer) { pointer in
            node.write(
                peer, UnsafeBufferPointer(start: pointer, count: 1), until: .after(configuration.nodeTimeout))
        }
        return ClusterAnswer(status.isOK ? Code.ok : Code.noNode)
    }

    func answerAtomic(_ request: ClusterRequest) -> ClusterAnswer {
        guard request[0] % 8 == 0, let place = arena(request[0], 8) else { return ClusterAnswer(Code.range) }
        let word = place.assumingMemoryBound(to: UInt64.self)
        return ClusterAnswer(Code.ok, Self.change(word, request[1], request[2], swaps: request[3] == 1))
    }
}

extension Mapping {
    /// Bytes from an offset to the end of its piece.
    func after(_ offset: UInt64) -> UInt64 {
        let piece = pieces[piece(at: offset)]
        return piece.start + piece.count - offset
    }

    /// Bytes from the begin of the piece that ends at or behind an offset (which is not 0) to it.
    func before(_ offset: UInt64) -> UInt64 { offset - pieces[piece(at: offset - 1)].start }
}
