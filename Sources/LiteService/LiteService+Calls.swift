import CLite
import Kernel
import Lite
import Wire

// Calls between programs. A request is delivered into the queue of its function, or at once to a receiver that waits;
// the reply is delivered to the caller's wait. Between nodes each is one call of the node's own, which says whether it
// was taken.
extension LiteService {
    /// Bytes that the requests of one function may take while they wait.
    private static var queueBytes_max: Int { 64 << 20 }

    // MARK: Serving

    func register(_ session: Session, _ submission: lite_submission) -> Int32 {
        guard (1...65535).contains(submission.handle), (0...UInt64(LITE_MESSAGE_MAX)).contains(submission.operand),
            (1...4096).contains(submission.operand2)
        else { return Code.invalid }
        let bytes = Int(submission.operand)
        let depth = Int(submission.operand2)
        if bytes * depth > Self.queueBytes_max { return Code.limit }
        let queue = FunctionQueue(function: submission.handle, session: session, bytes_max: bytes, depth: depth)
        if !functions.add(queue) { return Code.exists }
        // The session ended before the function was there: nobody else takes it out.
        session.lock.lock()
        let hasEnded = session.isEnded
        session.lock.unlock()
        if hasEnded, let queue = functions.remove(queue.function, of: session) { close(queue) }
        return Code.ok
    }

    func unregister(_ session: Session, _ function: UInt64) -> Int32 {
        guard let queue = functions.remove(function, of: session) else { return Code.noFunction }
        close(queue)
        for channel in session.channels {
            for slot in channel.claimReceives(of: function) { channel.complete(slot, Code.noFunction) }
        }
        return Code.ok
    }

    /// Answers everybody who waits for a function that has ended.
    func close(_ queue: FunctionQueue) {
        for request in queue.close() {
            finishCall(request.call, Code.gone, Self.nothing)
            request.bytes.deallocate()
        }
    }

    func serveReceive(_ channel: ServiceChannel, _ submission: lite_submission) {
        let slot = Int(submission.slot)
        guard let data = channel.bytes(at: submission.data, count: submission.count) else {
            return channel.complete(slot, Code.invalid)
        }
        guard let queue = functions.find(submission.handle), queue.session === channel.session else {
            return channel.complete(slot, Code.noFunction)
        }
        if submission.count < UInt64(queue.bytes_max) { return channel.complete(slot, Code.invalid) }
        queue.lock.lock()
        if queue.isClosed {
            queue.lock.unlock()
            return channel.complete(slot, Code.noFunction)
        }
        if let request = queue.takeRequestLocked() {
            queue.lock.unlock()
            let bytes = UnsafeRawBufferPointer(request.bytes)
            let isTaken = hand(request.call, bytes, to: channel, slot, data)
            request.bytes.deallocate()
            // The receiver is at its end, or has too much to reply to.
            if !isTaken { `defer`(.refuse(request.call), to: lanes.own) }
            return
        }
        var wait = Wait(kind: .receive, sequence: submission.sequence, object: submission.handle)
        wait.data = Int(submission.data)
        wait.capacity = Int(submission.count)
        let token = channel.begin(slot, wait)
        if let token { queue.addLocked(token) }
        queue.lock.unlock()
        if token == nil { expel(channel.session) }
    }

    /// Puts a request into a receiver's channel and ends its wait; false when the receiver's session is over.
    private func hand(
        _ call: IncomingCall, _ bytes: UnsafeRawBufferPointer, to channel: ServiceChannel, _ slot: Int,
        _ data: UnsafeMutableRawPointer
    ) -> Bool {
        var handle: UInt64 = 0
        if call.token != 0 {
            guard let added = channel.session.addIncoming(call) else {
                channel.complete(slot, Code.limit)
                return false
            }
            handle = added
        }
        if bytes.count > 0, let start = bytes.baseAddress { data.copyMemory(from: start, byteCount: bytes.count) }
        channel.complete(slot, Code.ok, value: handle, count: UInt64(bytes.count), node: call.node)
        return true
    }

    /// Takes a request for a function of this node. Any thread; does not wait.
    func deliver(_ function: UInt64, _ call: IncomingCall, _ bytes: UnsafeRawBufferPointer) -> Int32 {
        guard let queue = functions.find(function) else { return Code.noFunction }
        if bytes.count > queue.bytes_max { return Code.tooLarge }
        var copy: UnsafeMutableRawBufferPointer?
        while true {
            queue.lock.lock()
            if queue.isClosed || (queue.isFullLocked && copy == nil) {
                let status = queue.isClosed ? Code.noFunction : Code.busy
                queue.lock.unlock()
                copy?.deallocate()
                return status
            }
            if let token = queue.takeReceiverLocked() {
                queue.lock.unlock()
                guard let channel = channels.find(token), let wait = channel.claim(token) else { continue }
                let isTaken = hand(call, bytes, to: channel, token.slot, channel.base + wait.data)
                copy?.deallocate()
                return isTaken ? Code.ok : Code.gone
            }
            if let whole = copy {
                if queue.isFullLocked {
                    queue.lock.unlock()
                    whole.deallocate()
                    return Code.busy
                }
                queue.addLocked(FunctionQueue.Request(call: call, bytes: whole))
                queue.lock.unlock()
                return Code.ok
            }
            queue.lock.unlock()
            // Nobody waits: a copy, made without the lock, and another look.
            let fresh = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 16)
            if bytes.count > 0 { fresh.copyMemory(from: bytes) }
            copy = fresh
        }
    }

    // MARK: Calling

    static var nothing: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: nil, count: 0) }

    /// A call or a one-way message. The leader; does not wait: another node says later whether it took it.
    func serveCall(_ channel: ServiceChannel, _ submission: lite_submission) {
        let slot = Int(submission.slot)
        let expectsReply = submission.opcode == UInt8(LITE_OP_CALL.rawValue)
        guard let data = channel.bytes(at: submission.data, count: submission.count),
            !expectsReply || channel.bytes(at: submission.operand, count: submission.operand2) != nil
        else { return channel.complete(slot, Code.invalid) }
        if submission.count > UInt64(LITE_MESSAGE_MAX) { return channel.complete(slot, Code.tooLarge) }
        let target = submission.node == 0 ? own : submission.node
        let bytes = UnsafeRawBufferPointer(start: data, count: Int(submission.count))
        var call = IncomingCall(node: own, token: 0, capacity: submission.operand2)
        if target == own, !expectsReply {
            return channel.complete(slot, deliver(submission.handle, call, bytes))
        }
        var wait = Wait(
            kind: expectsReply ? .call : .delivery, sequence: submission.sequence, object: submission.handle,
            home: target)
        wait.data = expectsReply ? Int(submission.operand) : Int(Code.ok)
        wait.capacity = expectsReply ? Int(submission.operand2) : 0
        guard let token = channel.begin(slot, wait) else { return expel(channel.session) }
        if target == own {
            call.token = token.rawValue
            let status = deliver(submission.handle, call, bytes)
            if status != Code.ok { channel.settle(token, status) }
            return
        }
        let header = CallHeader(
            token: expectsReply ? token.rawValue : 0, detail: call.capacity, function: submission.handle)
        send(target, LiteFunction.request, header, bytes, for: token, of: channel, submission)
    }

    /// Sends a message with its header to a node, for a wait that its end is told to.
    private func send(
        _ target: UInt64, _ function: FunctionID, _ header: CallHeader, _ bytes: UnsafeRawBufferPointer,
        for token: WaitToken, of channel: ServiceChannel, _ submission: lite_submission
    ) {
        guard let peer = member(target) else { return channel.settle(token, Code.noNode) }
        channel.waitsForNode = true
        // That a call has arrived matters to nobody: its reply, or a refusal that comes like one, does.
        let isUrgent = submission.opcode != UInt8(LITE_OP_CALL.rawValue)
        let status = begin(peer, function, header, bytes, token.rawValue, isUrgent: isUrgent)
        // Too many are under way for it to be sent at once.
        if status == .busy { return `defer`(channel, submission, to: lanes.of(target)) }
        if status != .ok {
            channel.settle(token, status.lite)
        } else if member(target) == nil {
            // Lost before the wait could be seen to be for that node.
            channel.settle(token, Code.noNode)
        }
    }

    private func begin(
        _ peer: LitePeer, _ function: FunctionID, _ header: CallHeader, _ bytes: UnsafeRawBufferPointer,
        _ token: UInt64, isUrgent: Bool
    ) -> Status {
        withUnsafeTemporaryAllocation(byteCount: CallHeader.encodedSize, alignment: 8) { buffer in
            header.store(at: buffer.baseAddress!)
            return node.begin(
                peer, function, UnsafeRawBufferPointer(buffer), bytes, token: token, isUrgent: isUrgent,
                until: .after(configuration.nodeTimeout))
        }
    }

    /// Tells a caller on another node that its call is not under way. The node's poller: does not wait. False when that
    /// cannot be sent now; the caller then learns of it by the response to its request, a little later.
    func refuse(_ call: IncomingCall, _ status: Int32, of peer: LitePeer) -> Bool {
        if call.token == 0 { return false }
        let header = CallHeader(token: call.token, detail: UInt64(bitPattern: Int64(status)))
        return begin(peer, LiteFunction.reply, header, Self.nothing, 0, isUrgent: false) == .ok
    }

    /// A call, a message or a reply that could not be sent at once: waits for its turn, and for its end.
    func sendDeferred(_ channel: ServiceChannel, _ submission: lite_submission) {
        let slot = Int(submission.slot)
        // Withdrawn, or failed, while it waited.
        guard let (wait, token) = channel.current(slot, sequence: submission.sequence) else { return }
        guard let data = channel.bytes(at: submission.data, count: submission.count) else {
            return channel.settle(token, Code.invalid)
        }
        let bytes = UnsafeRawBufferPointer(start: data, count: Int(submission.count))
        let status: Int32
        if submission.opcode == UInt8(LITE_OP_REPLY.rawValue) {
            let result = Int32(truncatingIfNeeded: wait.data)
            let header = CallHeader(token: wait.object, detail: UInt64(bitPattern: Int64(result)))
            status = sendNow(wait.home, LiteFunction.reply, header, result == Code.ok ? bytes : Self.nothing)
        } else {
            let header = CallHeader(
                token: wait.kind == .call ? token.rawValue : 0, detail: UInt64(wait.capacity), function: wait.object)
            status = sendNow(wait.home, LiteFunction.request, header, bytes)
        }
        channel.settle(token, status)
    }

    /// Sends a message and waits until it was taken or not. Not the leader, nor a handler on the node's poller.
    private func sendNow(
        _ target: UInt64, _ function: FunctionID, _ header: CallHeader, _ bytes: UnsafeRawBufferPointer
    ) -> Int32 {
        guard let peer = member(target) else { return Code.noNode }
        let message = UnsafeMutableRawBufferPointer.allocate(
            byteCount: CallHeader.encodedSize + bytes.count, alignment: 16)
        defer { message.deallocate() }
        header.store(at: message.baseAddress!)
        UnsafeMutableRawBufferPointer(rebasing: message[CallHeader.encodedSize...]).copyMemory(from: bytes)
        let nothing = UnsafeMutableRawBufferPointer(start: nil, count: 0)
        let result = node.call(
            peer, function, request: UnsafeRawBufferPointer(message), response: nothing,
            until: .after(configuration.nodeTimeout))
        if result.status == .timedOut { giveUp(peer) }
        return result.status.lite
    }

    // MARK: Replying

    /// The call that a reply is for, taken out of its session, and the reply's bytes; nil when the submission has been
    /// refused.
    private func takeAnswered(
        _ channel: ServiceChannel, _ submission: lite_submission, _ handle: UInt64, count: UInt64
    ) -> (call: IncomingCall, bytes: UnsafeRawBufferPointer)? {
        guard let data = channel.bytes(at: submission.data, count: count) else {
            channel.complete(Int(submission.slot), Code.invalid)
            return nil
        }
        guard let call = channel.session.takeIncoming(handle) else {
            channel.complete(Int(submission.slot), Code.handle)
            return nil
        }
        return (call, UnsafeRawBufferPointer(start: data, count: Int(count)))
    }

    func serveReply(_ channel: ServiceChannel, _ submission: lite_submission) {
        let slot = Int(submission.slot)
        guard let (call, bytes) = takeAnswered(channel, submission, submission.handle, count: submission.count) else {
            return
        }
        if call.node == own { return channel.complete(slot, finishCall(call, Code.ok, bytes)) }
        let result = submission.count <= call.capacity ? Code.ok : Code.tooLarge
        var wait = Wait(kind: .delivery, sequence: submission.sequence, object: call.token, home: call.node)
        wait.data = Int(result)
        guard let token = channel.begin(slot, wait) else { return expel(channel.session) }
        let header = CallHeader(token: call.token, detail: UInt64(bitPattern: Int64(result)))
        send(
            call.node, LiteFunction.reply, header, result == Code.ok ? bytes : Self.nothing, for: token, of: channel,
            submission)
    }

    /// A reply of whose end nobody is told, and the next request.
    func serveReplyReceive(_ channel: ServiceChannel, _ submission: lite_submission) {
        let slot = Int(submission.slot)
        guard let (call, bytes) = takeAnswered(channel, submission, submission.operand, count: submission.operand2)
        else { return }
        if call.node == own {
            finishCall(call, Code.ok, bytes)
        } else if let peer = member(call.node) {
            channel.waitsForNode = true
            let fits = submission.operand2 <= call.capacity
            let header = CallHeader(
                token: call.token, detail: UInt64(bitPattern: Int64(fits ? Code.ok : Code.tooLarge)))
            let status = begin(peer, LiteFunction.reply, header, fits ? bytes : Self.nothing, 0, isUrgent: false)
            if status == .busy {
                // The program replies and receives one after the other instead.
                guard let handle = channel.session.addIncoming(call) else { return channel.complete(slot, Code.gone) }
                return channel.complete(slot, Code.busy, value: handle)
            }
        }
        serveReceive(channel, submission)
    }

    /// Ends a call at its caller, wherever that is. Answers `LITE_EGONE` when nobody waits any more. May wait for a
    /// caller on another node.
    @discardableResult
    func finishCall(_ call: IncomingCall, _ status: Int32, _ bytes: UnsafeRawBufferPointer) -> Int32 {
        if call.token == 0 { return Code.ok }
        let fits = UInt64(bytes.count) <= call.capacity
        let status = fits ? status : Code.tooLarge
        let bytes = fits ? bytes : Self.nothing
        let result: Int32
        if call.node == own {
            result = completeCall(WaitToken(rawValue: call.token), status, bytes)
        } else {
            let header = CallHeader(token: call.token, detail: UInt64(bitPattern: Int64(status)))
            result = sendNow(call.node, LiteFunction.reply, header, bytes)
        }
        return result == Code.ok && !fits ? Code.tooLarge : result
    }

    /// Ends the wait of a caller of this node. Any thread; does not wait.
    func completeCall(_ token: WaitToken, _ status: Int32, _ bytes: UnsafeRawBufferPointer) -> Int32 {
        guard let channel = channels.find(token), let wait = channel.claim(token) else { return Code.gone }
        guard wait.kind == .call, bytes.count <= wait.capacity else {
            channel.complete(token.slot, Code.tooLarge)
            return Code.tooLarge
        }
        if bytes.count > 0, let start = bytes.baseAddress {
            (channel.base + wait.data).copyMemory(from: start, byteCount: bytes.count)
        }
        channel.complete(token.slot, status, count: UInt64(bytes.count))
        return Code.ok
    }
}
