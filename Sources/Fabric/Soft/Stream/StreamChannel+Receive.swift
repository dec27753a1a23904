import CLinux
import Glibc
import Kernel
import Synchronization

extension StreamChannel {
    /// Payload that is left and at least this long is received straight into its place.
    private static let directBytes_min = 16 << 10
    /// Received before the other direction gets its turn.
    private static let turnBytes_max = 4 << 20

    /// Takes what the socket has: until there is nothing, or `once` until it has had less than there was room for. The first
    /// finds the end of the stream as well, of which an edge-triggered epoll(7) tells once. False when the connection has
    /// ended or must end.
    func receiveAvailable(_ pair: SoftQueuePair, once: Bool) -> Bool {
        var taken = 0
        isSocketEmpty = false
        while true {
            switch consume(pair) {
            case .hungry:
                if once, isSocketEmpty {
                    noteCredit(pair)
                    return true
                }
                // What the peer waits for goes before the call that is likely to find nothing.
                if isSocketEmpty, !transmitAvailable(pair) { return false }
            case .paused: return true
            case .failed: return false
            }
            let result = refill(pair)
            if result > 0 {
                taken &+= result
                if taken >= Self.turnBytes_max {
                    // Answers and acknowledgements must not wait for the peer to stop sending.
                    if !transmitAvailable(pair) { return false }
                    taken = 0
                }
            } else if result == -Int(EAGAIN) {
                noteCredit(pair)
                return true
            } else if result != -Int(EINTR) {
                // A peer that has not answered for too long, by its own clock or by the kernel's.
                if result == -Int(ETIMEDOUT), pair.sendQueue.first < started {
                    complete(pair, pair.sendQueue.first, .retryExceeded)
                }
                return false
            }
        }
    }

    private func noteCredit(_ pair: SoftQueuePair) {
        if needsCredit(pair) { isCreditWanted.store(true, ordering: .sequentiallyConsistent) }
    }

    private enum Consumption {
        /// All has been consumed that is there.
        case hungry
        /// The completion queue has no place; a poll makes one.
        case paused
        case failed
    }

    /// Receives into the buffer or straight into place; answers the bytes, 0 at no progress that is to be retried, or
    /// -errno (-EPIPE at the end of the stream).
    private func refill(_ pair: SoftQueuePair) -> Int {
        var result: Int
        if sink != .none, sink != .discard, inStart == inEnd, payloadLeft >= Self.directBytes_min {
            result = whileActive { () -> Int in
                guard let piece = sinkPiece(pair) else { return Int.min }
                let count = recv(socket.raw, piece.iov_base, piece.iov_len, Int32(MSG_DONTWAIT))
                isSocketEmpty = count < piece.iov_len
                return count < 0 ? -Int(errno) : count == 0 ? -Int(EPIPE) : count
            }
            if result == .min { return !pair.isBroken && refuseSink(pair) ? -Int(EINTR) : -Int(EPROTO) }
            if result > 0 { sinkOffset &+= result }
            return result
        }
        if inStart == inEnd {
            inStart = 0
            inEnd = 0
        } else if Self.bufferBytes &- inEnd < StreamFrame.encodedSize {
            memmove(input, input + inStart, inEnd &- inStart)
            inEnd &-= inStart
            inStart = 0
        }
        result = recv(socket.raw, input + inEnd, Self.bufferBytes &- inEnd, Int32(MSG_DONTWAIT))
        if result < 0 { return -Int(errno) }
        if result == 0 { return -Int(EPIPE) }
        inEnd &+= result
        isSocketEmpty = inEnd < Self.bufferBytes
        return result
    }

    private var payloadLeft: Int { frame.payloadCount &- sinkOffset }

    /// Consumes what is in the buffer.
    private func consume(_ pair: SoftQueuePair) -> Consumption {
        while true {
            if sink != .none {
                if !fillSink(pair) { return .failed }
                if payloadLeft > 0 { return .hungry }
                sink = sink == .discard ? .none : finished(pair)
                continue
            }
            guard inEnd &- inStart >= StreamFrame.encodedSize else { return .hungry }
            guard let next = StreamFrame(decoding: input + inStart) else { return .failed }
            switch begin(next, pair) {
            case .begun: inStart &+= StreamFrame.encodedSize
            case .paused: return .paused
            case .failed: return .failed
            }
        }
    }

    // MARK: Frames

    private enum Beginning {
        case begun
        case paused
        case failed
    }

    /// Looks at a frame's head. Leaves the sink set when it has to be ended by `finished` or has a payload.
    private func begin(_ next: StreamFrame, _ pair: SoftQueuePair) -> Beginning {
        peerPosted = next.posted
        guard completeRequests(before: next.acknowledged, pair) else { return .failed }
        if next.kind.isRequest {
            if isRefusing {
                frame = next
                sinkOffset = 0
                sink = .discard
                return .begun
            }
            guard next.sequence == nextSequence else { return .failed }
        }
        let needsReceive = next.kind == .send || next.kind == .writeImmediate
        if needsReceive {
            // The peer sends only what it has credit for.
            guard pair.receiveQueue.first != nil else { return .failed }
            guard pair.receiveCompletions.reserve() else { return .paused }
        }
        frame = next
        sinkOffset = 0
        switch next.kind {
        case .send: beginSend(pair)
        case .write, .writeImmediate: beginWrite(pair)
        case .read:
            nextSequence &+= 1
            return beginRead() ? .begun : .failed
        case .fetchAdd, .compareSwap:
            nextSequence &+= 1
            return atomic(pair) ? .begun : .failed
        case .refusal:
            refused(pair)
            return .failed
        case .readPiece, .lastReadPiece: return beginReadPiece(pair) ? .begun : .failed
        case .atomicResult: return atomicResult(pair) ? .begun : .failed
        case .credit: break
        }
        return .begun
    }

    private func beginSend(_ pair: SoftQueuePair) {
        guard let receive = pair.receiveQueue.first, Int(frame.count) <= receive.pointee.count else {
            pushReceive(pair, .localLength)
            refuse(.remoteOperation)
            sink = .discard
            return
        }
        sink = .receive
    }

    private func beginWrite(_ pair: SoftQueuePair) {
        let isAllowed =
            frame.count == 0
            || whileActive { resolve(frame.key, frame.address, Int(frame.count), .write) != nil }
        if isAllowed {
            sink = .region
            return
        }
        if frame.kind == .writeImmediate { pair.receiveCompletions.cancelReservation() }
        refuse(.remoteAccess)
        sink = .discard
    }

    private func beginRead() -> Bool {
        let isAllowed =
            frame.count == 0 || whileActive { resolve(frame.key, frame.address, Int(frame.count), .read) != nil }
        guard isAllowed else {
            nextSequence &-= 1
            return refuse(.remoteAccess)
        }
        var head = StreamFrame(.readPiece, sequence: frame.sequence)
        head.key = frame.key
        head.address = frame.address
        return answer(Answer(frame: head, left: Int(frame.count)))
    }

    private func atomic(_ pair: SoftQueuePair) -> Bool {
        let former = whileActive { () -> UInt64? in
            guard !pair.isBroken, frame.address % 8 == 0, let place = resolve(frame.key, frame.address, 8, .atomic)
            else { return nil }
            let word = place.assumingMemoryBound(to: UInt64.self)
            if frame.kind == .fetchAdd { return lego_atomic_add_u64(word, frame.operand) }
            var expected = frame.operand
            _ = lego_atomic_compare_exchange_u64(word, &expected, frame.swap)
            return expected
        }
        guard let former else {
            nextSequence &-= 1
            return refuse(.remoteAccess)
        }
        var head = StreamFrame(.atomicResult, sequence: frame.sequence)
        head.operand = former
        return answer(Answer(frame: head))
    }

    /// Refuses the current request; what has come before it has succeeded. Nothing more is done for the peer.
    @discardableResult
    private func refuse(_ status: WorkStatus) -> Bool {
        isRefusing = true
        var head = StreamFrame(.refusal, sequence: frame.sequence)
        head.status = status
        return answer(Answer(frame: head))
    }

    // MARK: Payload

    /// The next contiguous piece of the current frame's place. Nil when its memory is not, or no longer, registered.
    /// Inside the activity window.
    private func sinkPiece(_ pair: SoftQueuePair) -> iovec? {
        // A disconnection waits for one window: the next one must find out.
        if pair.isBroken { return nil }
        var elements: UnsafeMutablePointer<ScatterElement>
        var count: Int
        var start = sinkOffset
        switch sink {
        case .region:
            guard let base = resolve(frame.key, frame.address, Int(frame.count), .write) else { return nil }
            return iovec(iov_base: base + sinkOffset, iov_len: payloadLeft)
        case .receive:
            guard let receive = pair.receiveQueue.first else { return nil }
            elements = pair.receiveQueue.firstElements
            count = receive.pointee.elementCount
        case .readEntry:
            let index = pair.sendQueue.first
            elements = pair.sendQueue.elements(index)
            count = pair.sendQueue.entry(index).pointee.elementCount
            start &+= readOffset
        case .none, .discard: return nil
        }
        guard table.allLocal(elements, count) else { return nil }
        var piece = iovec(iov_base: nil, iov_len: 0)
        forEachPiece(elements, count, from: start, count: payloadLeft) { address, length in
            if piece.iov_len == 0 { piece = iovec(iov_base: address, iov_len: length) }
        }
        return piece
    }

    /// Moves what the buffer has of the current payload to its place. False when the connection must end.
    private func fillSink(_ pair: SoftQueuePair) -> Bool {
        while payloadLeft > 0, inStart < inEnd {
            let available = min(inEnd &- inStart, payloadLeft)
            if sink == .discard {
                inStart &+= available
                sinkOffset &+= available
                continue
            }
            let moved = whileActive { () -> Int in
                guard let piece = sinkPiece(pair) else { return -1 }
                // A list that is shorter than it was when the frame began has been tampered with.
                let count = min(available, piece.iov_len)
                if count == 0 { return -1 }
                memcpy(piece.iov_base, input + inStart, count)
                return count
            }
            if moved < 0 {
                if pair.isBroken || !refuseSink(pair) { return false }
                continue
            }
            inStart &+= moved
            sinkOffset &+= moved
        }
        return true
    }

    /// The place of the current payload has been deregistered. False when that is this end's own fault.
    private func refuseSink(_ pair: SoftQueuePair) -> Bool {
        switch sink {
        case .region:
            if frame.kind == .writeImmediate { pair.receiveCompletions.cancelReservation() }
            refuse(.remoteAccess)
        case .receive:
            pushReceive(pair, .localProtection)
            refuse(.remoteOperation)
        case .readEntry:
            complete(pair, pair.sendQueue.first, .localProtection)
            return false
        case .none, .discard: break
        }
        sink = .discard
        return true
    }

    /// All of the current payload is in place.
    private func finished(_ pair: SoftQueuePair) -> Sink {
        switch frame.kind {
        case .send, .writeImmediate:
            pushReceive(pair, .success)
            nextSequence &+= 1
        case .write: nextSequence &+= 1
        case .readPiece: readOffset &+= Int(frame.count)
        case .lastReadPiece:
            readOffset = 0
            complete(pair, pair.sendQueue.first, .success)
        default: break
        }
        return .none
    }

    /// Completes the oldest receive, which has a place in the completion queue.
    private func pushReceive(_ pair: SoftQueuePair, _ status: WorkStatus) {
        guard let receive = pair.receiveQueue.first else { return pair.receiveCompletions.cancelReservation() }
        let completion = WorkCompletion(
            id: receive.pointee.id, status: status,
            kind: frame.kind == .writeImmediate ? .receiveImmediate : .receive, count: frame.count,
            immediate: frame.kind == .writeImmediate ? frame.immediate : 0, queuePair: pair.number)
        pair.receiveQueue.retire()
        arrived.add(1, ordering: .sequentiallyConsistent)
        pair.receiveCompletions.push(completion)
    }

    // MARK: Answers

    /// Completes all requests before one that may be the next to be sent. False when one of them is not under way, is still
    /// being sent, or has an answer of its own, which must have come.
    private func completeRequests(before sequence: UInt32, _ pair: SoftQueuePair) -> Bool {
        let first = pair.sendQueue.first
        let distance = Int(Int32(bitPattern: sequence &- UInt32(truncatingIfNeeded: first)))
        if distance <= 0 { return true }
        guard distance <= started &- first else { return false }
        for index in first..<first &+ distance {
            guard !answersItself(pair, index), !isBeingSent(index) else { return false }
            complete(pair, index, .success)
        }
        return true
    }

    /// The index of the request that the current frame answers: all before it have completed. Nil when it is not under way.
    private func answeredRequest(_ pair: SoftQueuePair) -> Int? {
        let first = pair.sendQueue.first
        return frame.sequence == UInt32(truncatingIfNeeded: first) && first < started ? first : nil
    }

    /// Whether the payload of a request is still on its way out: nobody can have acted on it.
    private func isBeingSent(_ index: Int) -> Bool {
        bulk.source == .entry && bulk.left > 0 && index &+ 1 == started
    }

    private func answersItself(_ pair: SoftQueuePair, _ index: Int) -> Bool {
        switch pair.sendQueue.entry(index).pointee.opcode {
        case .read, .fetchAdd, .compareSwap: true
        case .send, .write, .writeWithImmediate: false
        }
    }

    /// The peer has refused a request: the connection ends.
    private func refused(_ pair: SoftQueuePair) {
        guard frame.status != .success, let index = answeredRequest(pair) else { return }
        readOffset = 0
        complete(pair, index, frame.status)
    }

    private func beginReadPiece(_ pair: SoftQueuePair) -> Bool {
        guard let index = answeredRequest(pair), pair.sendQueue.entry(index).pointee.opcode == .read else {
            return false
        }
        let left = pair.sendQueue.entry(index).pointee.count &- readOffset
        guard Int(frame.count) <= left, frame.kind == .readPiece ? frame.count > 0 : Int(frame.count) == left else {
            return false
        }
        sink = .readEntry
        return true
    }

    private func atomicResult(_ pair: SoftQueuePair) -> Bool {
        guard let index = answeredRequest(pair) else { return false }
        let entry = pair.sendQueue.entry(index)
        guard entry.pointee.opcode == .fetchAdd || entry.pointee.opcode == .compareSwap else { return false }
        let elements = pair.sendQueue.elements(index)
        let isStored = whileActive {
            guard table.allLocal(elements, 1) else { return false }
            elements[0].address.storeBytes(of: frame.operand, as: UInt64.self)
            return true
        }
        complete(pair, index, isStored ? .success : .localProtection)
        return isStored
    }
}
