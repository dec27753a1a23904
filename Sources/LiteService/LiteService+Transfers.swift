import CLinux
import CLite
import Kernel
import Lite

/// A read or a write between taking its region's lock and its end: the mapping counts it, the buffer is held.
struct CountedTransfer {
    let submission: lite_submission
    let mapping: Unmanaged<Mapping>
    let place: UnsafeMutableRawPointer
    let buffer: Unmanaged<SessionBuffer>?
}

// Reads and writes: copies between a program's memory (its channel, or a buffer that it shares with the daemon) and a
// region.
extension LiteService {
    /// Bytes of one transfer, and of one row of them, that are copied under the session's lock, so that nothing needs
    /// to be counted: some 100 ns, and less than a microsecond.
    private static var lockedBytes_max: UInt64 { 4096 }
    private static var lockedRow_max: UInt64 { 16 << 10 }

    /// How a transfer goes on that was looked at under the lock.
    private enum Course {
        case done
        /// Without the lock, at once.
        case counted
        /// Wherever its lane gets it.
        case deferred
        /// No honest program wrote this.
        case absurd
    }

    /// Serves a row of reads and writes. The lock is taken once, the memory that they need is fetched side by side, and
    /// one fence serves to wake all programs that sleep.
    @inline(__always)
    func serveTransfers(_ channel: ServiceChannel, _ bench: Workbench, _ count: Int) {
        let session = channel.session
        var finished: UInt32 = 0
        var deferred: UInt32 = 0
        var counted = 0
        var isAbsurd = false
        var bytes: UInt64 = 0
        session.lock.lock()
        if count > 1 { fetchLocked(session, bench.batch, count) }
        for index in 0..<count {
            switch transferLocked(channel, bench.batch + index, bench.later + counted, &bytes) {
            case .done: finished |= 1 << UInt32(index)
            case .counted: counted += 1
            case .deferred: deferred |= 1 << UInt32(index)
            case .absurd: isAbsurd = true
            }
        }
        session.lock.unlock()
        lego_atomic_fence()
        while finished != 0 {
            channel.wake(Int(bench.batch[finished.trailingZeroBitCount].slot))
            finished &= finished - 1
        }
        if counted > 0 { finishCounted(channel, bench.later, counted) }
        if deferred != 0 { deferTransfers(channel, bench.batch, deferred) }
        if isAbsurd { expel(session) }
    }

    /// Has the processor fetch the entries of the handles, and then the memory that they stand for.
    private func fetchLocked(_ session: Session, _ batch: UnsafeMutablePointer<lite_submission>, _ count: Int) {
        for index in 0..<count { session.handles.prefetch(batch[index].handle) }
        for index in 0..<count {
            guard let entry = session.handles.pointer(batch[index].handle), let local = entry.pointee.local,
                batch[index].offset < entry.pointee.bytes
            else { continue }
            lego_prefetch(local + Int(batch[index].offset))
        }
    }

    /// Looks one transfer up, and does it if it is short and on this node.
    @inline(__always)
    private func transferLocked(
        _ channel: ServiceChannel, _ submission: UnsafePointer<lite_submission>,
        _ counted: UnsafeMutablePointer<CountedTransfer>, _ bytes: inout UInt64
    ) -> Course {
        let slot = Int(submission.pointee.slot)
        let count = submission.pointee.count
        let session = channel.session
        if slot >= Int(LITE_SLOTS) { return .absurd }
        let isRead = submission.pointee.opcode == UInt8(LITE_OP_READ.rawValue)
        var entry = HandleEntry()
        var status = findRegionLocked(
            session, submission.pointee.handle, UInt8(isRead ? LITE_READ.rawValue : LITE_WRITE.rawValue),
            submission.pointee.offset, count == 0 ? 0 : max(count, submission.pointee.operand), &entry)
        var data: UnsafeMutableRawPointer?
        var buffer: Unmanaged<SessionBuffer>?
        if submission.pointee.data >> UInt64(LITE_BUFFER_SHIFT) == 0 {
            data = channel.bytes(at: submission.pointee.data, count: count)
        } else if let found = session.bufferLocked(submission.pointee.data, count: count) {
            data = found.0
            buffer = found.1
        }
        if status == Code.ok, data == nil { status = Code.invalid }
        guard status == Code.ok, let data else {
            channel.post(slot, status)
            return .done
        }
        if let local = entry.local, count <= Self.lockedBytes_max, bytes <= Self.lockedRow_max {
            bytes += count
            copyLocked(channel, submission, data, local + Int(submission.pointee.offset), isRead)
            return .done
        }
        guard let mapping = entry.heldMapping else {
            channel.post(slot, Code.handle)
            return .done
        }
        // The entry keeps the mapping as long as the lock is held.
        return mapping._withUnsafeGuaranteedRef { mapping in
            if !mapping.isNear { return .deferred }
            if count <= Self.lockedBytes_max, bytes <= Self.lockedRow_max,
                copyAtPeer(channel, submission, mapping, data, isRead)
            {
                bytes += count
                return .done
            }
            mapping.begin()
            counted.initialize(
                to: CountedTransfer(
                    submission: submission.pointee, mapping: .passRetained(mapping), place: data,
                    buffer: buffer?.retain()))
            return .counted
        }
    }

    /// Does a short transfer with another node on this host where its memory lies; false where that cannot be.
    @inline(__always)
    private func copyAtPeer(
        _ channel: ServiceChannel, _ submission: UnsafePointer<lite_submission>, _ mapping: Mapping,
        _ data: UnsafeMutableRawPointer, _ isRead: Bool
    ) -> Bool {
        mapping.withPeer(false) { peer in
            guard
                let place = node.beginAccess(
                    peer, remoteOffset: mapping.wholeOffset + submission.pointee.offset,
                    count: Int(submission.pointee.count), isRead ? .read : .write)
            else { return false }
            copyLocked(channel, submission, data, place, isRead)
            node.endAccess(peer)
            return true
        }
    }

    /// Copies a short transfer and completes it.
    @inline(__always)
    private func copyLocked(
        _ channel: ServiceChannel, _ submission: UnsafePointer<lite_submission>, _ data: UnsafeMutableRawPointer,
        _ place: UnsafeMutableRawPointer, _ isRead: Bool
    ) {
        var word: UInt64 = 0
        if Self.isWord(submission.pointee) {
            if isRead {
                word = place.loadUnaligned(as: UInt64.self)
            } else {
                place.storeBytes(of: submission.pointee.operand2, as: UInt64.self)
            }
        } else if isRead {
            data.copyMemory(from: place, byteCount: Int(submission.pointee.count))
        } else {
            place.copyMemory(from: data, byteCount: Int(submission.pointee.count))
        }
        channel.post(Int(submission.pointee.slot), Code.ok, value: word)
    }

    @inline(__always)
    private static func isWord(_ submission: lite_submission) -> Bool {
        submission.flags & UInt8(LITE_FLAG_WORD) != 0 && submission.count == 8
    }

    /// What is long, or in another node's memory on this host.
    @inline(never)
    private func finishCounted(
        _ channel: ServiceChannel, _ transfers: UnsafeMutablePointer<CountedTransfer>, _ count: Int
    ) {
        for index in 0..<count { finish(channel, (transfers + index).move()) }
    }

    /// Does a counted transfer and completes it.
    private func finish(_ channel: ServiceChannel, _ transfer: CountedTransfer) {
        let submission = transfer.submission
        let isRead = submission.opcode == UInt8(LITE_OP_READ.rawValue)
        let isWord = Self.isWord(submission)
        let mapping = transfer.mapping.takeRetainedValue()
        let buffer = transfer.buffer?.takeRetainedValue()
        if isWord, !isRead { transfer.place.storeBytes(of: submission.operand2, as: UInt64.self) }
        let status = move(
            mapping, submission.offset, Int(submission.count), transfer.place,
            buffer?.registration ?? channel.registration, isRead: isRead, on: Self.pairs(of: channel.session))
        let word = isWord && isRead ? transfer.place.loadUnaligned(as: UInt64.self) : 0
        release(mapping)
        channel.complete(Int(submission.slot), status, value: word)
    }

    /// Transfers with nodes on other hosts go into the lanes of those.
    @inline(never)
    private func deferTransfers(
        _ channel: ServiceChannel, _ batch: UnsafeMutablePointer<lite_submission>, _ which: UInt32
    ) {
        var left = which
        while left != 0 {
            let submission = batch[left.trailingZeroBitCount]
            left &= left - 1
            `defer`(channel, submission, to: lane(of: submission.handle, at: submission.offset, channel.session))
        }
    }

    /// A transfer whose turn in its lane has come: everything is looked up once more.
    func transferDeferred(_ channel: ServiceChannel, _ submission: lite_submission) {
        let slot = Int(submission.slot)
        let session = channel.session
        let isRead = submission.opcode == UInt8(LITE_OP_READ.rawValue)
        let right = isRead ? LITE_READ.rawValue : LITE_WRITE.rawValue
        let (status, found) = beginOperation(
            session, submission.handle, right, submission.offset, max(submission.count, submission.operand))
        guard let mapping = found else { return channel.complete(slot, status) }
        session.lock.lock()
        let inBuffer = session.bufferLocked(submission.data, count: submission.count).map { ($0.0, $0.1.retain()) }
        session.lock.unlock()
        guard let place = inBuffer?.0 ?? channel.bytes(at: submission.data, count: submission.count) else {
            release(mapping)
            return channel.complete(slot, Code.invalid)
        }
        finish(
            channel,
            CountedTransfer(
                submission: submission, mapping: .passRetained(mapping), place: place,
                buffer: inBuffer?.1))
    }

    /// Copies between a program's memory and a region, piece by piece.
    private func move(
        _ mapping: Mapping, _ offset: UInt64, _ count: Int, _ data: UnsafeMutableRawPointer,
        _ registration: Registration, isRead: Bool, on pairs: TransferPairs
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
                let status = moveFar(piece, inside, part, data, registration, isRead: isRead, on: pairs)
                if status != Code.ok { return status }
            }
            offset += UInt64(part)
            data += part
            left -= part
            index += 1
        }
        return Code.ok
    }

    /// A part on another node, one-sided: the program's memory is the local end.
    private func moveFar(
        _ piece: MappedPiece, _ inside: UInt64, _ count: Int, _ data: UnsafeMutableRawPointer,
        _ registration: Registration, isRead: Bool, on pairs: TransferPairs
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
        guard let memory = registration.get(node) else { return Code.limit }
        let transfer = Transfer(local: data, remoteOffset: start, count: count)
        let deadline = Deadline.after(configuration.nodeTimeout)
        let status =
            isRead
            ? node.read(peer, into: memory, transfer, on: pairs, until: deadline)
            : node.write(peer, from: memory, transfer, on: pairs, until: deadline)
        return status.isOK ? Code.ok : Code.noNode
    }
}
