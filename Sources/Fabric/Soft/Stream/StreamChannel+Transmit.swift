import CLinux
import Glibc
import Kernel
import Synchronization

extension StreamChannel {
    /// Sends what the socket takes: answers first, then requests. False when the connection has failed.
    func transmitAvailable(_ pair: SoftQueuePair) -> Bool {
        while true {
            guard stage(pair) else { return false }
            if outStart == outEnd, bulk.left == 0 { return true }
            let sent = sendStaged(pair)
            if sent < 0 {
                if sent == -Int(EAGAIN) { return true }
                if sent == -Int(EINTR) { continue }
                return false
            }
        }
    }

    /// Fills the staging buffer with as many frames as are ready and fit. False when the connection must end.
    private func stage(_ pair: SoftQueuePair) -> Bool {
        if outStart == outEnd {
            outStart = 0
            outEnd = 0
        }
        while bulk.left == 0,
            Self.bufferBytes &- outEnd >= StreamFrame.encodedSize &+ Self.stagedBytes_max
        {
            if answerHead != answerTail {
                stageAnswer(pair)
            } else if started != pair.sendQueue.end, !isRefusing {
                switch stageRequest(pair) {
                case .staged: continue
                case .stalled: return stageCredit(pair)
                case .failed: return false
                }
            } else {
                return stageCredit(pair)
            }
        }
        return true
    }

    /// Tells what no other frame has told.
    private func stageCredit(_ pair: SoftQueuePair) -> Bool {
        let isCreditDue = isCreditWanted.exchange(false, ordering: .sequentiallyConsistent) && needsCredit(pair)
        let isAcknowledgementDue =
            nextSequence != acknowledgedSequence && !isRefusing && !isAcknowledgeDeferred
        if isCreditDue || isAcknowledgementDue { put(StreamFrame(.credit), pair) }
        return true
    }

    /// Appends a frame's head, with all that it may acknowledge: an answer what came before its request, which the answers
    /// before it have told; another frame, which no answer waits for, all.
    private func put(_ frame: StreamFrame, _ pair: SoftQueuePair) {
        var frame = frame
        if frame.kind.isAnswer {
            frame.acknowledged = frame.sequence
            acknowledgedSequence = frame.sequence &+ 1
        } else {
            frame.acknowledged = nextSequence
            acknowledgedSequence = nextSequence
        }
        frame.posted = UInt32(truncatingIfNeeded: pair.receiveQueue.posted)
        advertised.store(frame.posted, ordering: .sequentiallyConsistent)
        frame.encode(to: out + outEnd)
        outEnd &+= StreamFrame.encodedSize
    }

    // MARK: Requests

    private enum Staging {
        case staged
        case stalled
        case failed
    }

    private func stageRequest(_ pair: SoftQueuePair) -> Staging {
        let index = started
        let entry = pair.sendQueue.entry(index)
        let elements = pair.sendQueue.elements(index)
        guard pair.sendCompletions.reserve() else { return .stalled }
        var verdict = entry.pointee.verdict
        if verdict == .success, !entry.pointee.isInline, !table.allLocal(elements, entry.pointee.elementCount) {
            verdict = .localProtection
        }
        let opcode = entry.pointee.opcode
        if verdict == .success, opcode == .send || opcode == .writeWithImmediate {
            let credit = peerPosted &- messagesSent
            if credit == 0 || credit > UInt32(SoftLimits.requests_max) {
                if pair.mayWaitForReceive() {
                    pair.sendCompletions.cancelReservation()
                    return .stalled
                }
                verdict = .receiverNotReady
            } else {
                messagesSent &+= 1
            }
        }
        if verdict != .success {
            // Requests before it end first.
            if pair.sendQueue.first != index {
                pair.sendCompletions.cancelReservation()
                return .stalled
            }
            complete(pair, index, verdict)
            return .failed
        }
        pair.stopWaitingForReceive()
        started = index &+ 1
        putRequest(entry, elements, index, pair)
        return .staged
    }

    private func putRequest(
        _ entry: UnsafeMutablePointer<SendEntry>, _ elements: UnsafeMutablePointer<ScatterElement>, _ index: Int,
        _ pair: SoftQueuePair
    ) {
        let kind: StreamFrame.Kind =
            switch entry.pointee.opcode {
            case .send: .send
            case .write: .write
            case .writeWithImmediate: .writeImmediate
            case .read: .read
            case .fetchAdd: .fetchAdd
            case .compareSwap: .compareSwap
            }
        var frame = StreamFrame(kind, sequence: UInt32(truncatingIfNeeded: index))
        frame.count = UInt32(entry.pointee.count)
        frame.key = entry.pointee.remoteKey
        frame.immediate = entry.pointee.immediate
        frame.address = entry.pointee.remoteAddress
        frame.operand = entry.pointee.operand
        frame.swap = entry.pointee.swap
        put(frame, pair)
        let count = frame.payloadCount
        if count == 0 { return }
        if count > Self.stagedBytes_max {
            bulk = Bulk(source: .entry, offset: 0, left: count)
            return
        }
        whileActive {
            forEachPiece(elements, entry.pointee.elementCount, from: 0, count: count) { address, length in
                memcpy(out + outEnd, address, length)
                outEnd &+= length
            }
        }
    }

    // MARK: Answers

    private func stageAnswer(_ pair: SoftQueuePair) {
        let answer = answers + answerHead % answerCapacity
        var frame = answer.pointee.frame
        let left = answer.pointee.left
        guard frame.kind == .readPiece, left > 0 else {
            // All bytes of a read that went as bulk have been sent honestly when this says that it is over.
            if frame.kind == .readPiece {
                frame.kind = .lastReadPiece
                frame.count = 0
            }
            put(frame, pair)
            answerHead &+= 1
            return
        }
        let piece = min(left, Self.readPieceBytes_max)
        let isStaged = left <= Self.stagedBytes_max
        let (key, address) = (frame.key, frame.address)
        let isAllowed = whileActive {
            guard let source = resolve(key, address, left, .read) else { return false }
            if isStaged { memcpy(out + outEnd + StreamFrame.encodedSize, source, piece) }
            return true
        }
        guard isAllowed else { return refuseRead(answer) }
        frame.count = UInt32(piece)
        if isStaged {
            frame.kind = .lastReadPiece
            put(frame, pair)
            outEnd &+= piece
            answerHead &+= 1
        } else {
            put(frame, pair)
            bulk = Bulk(source: .region, key: key, address: address, offset: 0, left: piece)
            answer.pointee.left &-= piece
            answer.pointee.frame.address &+= UInt64(piece)
        }
    }

    /// The region of a read that waits or is being answered has gone.
    private func refuseRead(_ answer: UnsafeMutablePointer<Answer>) {
        var refusal = StreamFrame(.refusal, sequence: answer.pointee.frame.sequence)
        refusal.status = .remoteAccess
        answer.initialize(to: Answer(frame: refusal))
        // Nothing after it counts.
        answerTail = answerHead &+ 1
        isRefusing = true
    }

    /// Queues an answer. False when the peer has more requests under way than it said.
    func answer(_ answer: Answer) -> Bool {
        guard answerTail &- answerHead < answerCapacity else { return false }
        (answers + answerTail % answerCapacity).initialize(to: answer)
        answerTail &+= 1
        return true
    }

    // MARK: The socket

    /// Sends the staging buffer and a piece of the bulk behind it in one call; answers the bytes sent, or -errno.
    private func sendStaged(_ pair: SoftQueuePair) -> Int {
        if bulk.left == 0 {
            let sent = send(socket.raw, out + outStart, outEnd &- outStart, Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL))
            if sent < 0 { return -Int(errno) }
            outStart &+= sent
            return sent
        }
        return whileActive {
            var parts = (iovec(), iovec())
            let staged = outEnd &- outStart
            parts.0 = iovec(iov_base: out + outStart, iov_len: staged)
            guard let piece = bulkPiece(pair) else { return -Int(EFAULT) }
            parts.1 = piece
            return withUnsafeMutablePointer(to: &parts) { parts in
                parts.withMemoryRebound(to: iovec.self, capacity: 2) { vector in
                    var message = msghdr()
                    message.msg_iov = vector
                    message.msg_iovlen = 2
                    let sent = sendmsg(socket.raw, &message, Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL))
                    if sent < 0 { return -Int(errno) }
                    let fromStaged = min(sent, staged)
                    outStart &+= fromStaged
                    bulk.offset &+= sent &- fromStaged
                    bulk.left &-= sent &- fromStaged
                    return sent
                }
            }
        }
    }

    /// The next contiguous piece of the bulk. Nil when its memory has been deregistered and the frame cannot be ended
    /// honestly.
    private func bulkPiece(_ pair: SoftQueuePair) -> iovec? {
        if bulk.source == .entry {
            let index = started &- 1
            let entry = pair.sendQueue.entry(index)
            let elements = pair.sendQueue.elements(index)
            guard entry.pointee.isInline || table.allLocal(elements, entry.pointee.elementCount) else { return nil }
            var piece = iovec(iov_base: nil, iov_len: 0)
            forEachPiece(elements, entry.pointee.elementCount, from: bulk.offset, count: bulk.left) { address, length in
                if piece.iov_len == 0 { piece = iovec(iov_base: address, iov_len: length) }
            }
            return piece
        }
        if bulk.source == .region {
            if let base = resolve(bulk.key, bulk.address, bulk.offset &+ bulk.left, .read) {
                return iovec(iov_base: base + bulk.offset, iov_len: bulk.left)
            }
            poison()
        }
        return iovec(iov_base: zeros, iov_len: min(bulk.left, zeroBytes))
    }

    /// The region of a read went away in the middle: the frame is filled up, and an error tells the peer that it
    /// failed.
    private func poison() {
        bulk.source = .poisoned
        refuseRead(answers + answerHead % answerCapacity)
    }
}

/// What fills a frame whose memory went away.
private let zeroBytes = 64 << 10
private nonisolated(unsafe) let zeros = { () -> UnsafeMutableRawPointer in
    let memory = UnsafeMutableRawPointer.allocate(byteCount: zeroBytes, alignment: 4096)
    memset(memory, 0, zeroBytes)
    return memory
}()
