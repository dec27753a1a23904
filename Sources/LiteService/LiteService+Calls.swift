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
            finishCall(request.call, Code.gone, UnsafeRawBufferPointer(start: nil, count: 0), nil)
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
            if !isTaken { finishCall(request.call, Code.gone, UnsafeRawBufferPointer(start: nil, count: 0), nil) }
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

    /// A call or a one-way message.
    func serveCall(_ channel: ServiceChannel, _ submission: lite_submission, _ staging: Staging) -> Bool {
        let slot = Int(submission.slot)
        let expectsReply = submission.opcode == UInt8(LITE_OP_CALL.rawValue)
        guard let data = channel.bytes(at: submission.data, count: submission.count),
            !expectsReply || channel.bytes(at: submission.operand, count: submission.operand2) != nil
        else {
            channel.complete(slot, Code.invalid)
            return false
        }
        if submission.count > UInt64(LITE_MESSAGE_MAX) {
            channel.complete(slot, Code.tooLarge)
            return false
        }
        let target = submission.node == 0 ? own : submission.node
        var call = IncomingCall(node: own, token: 0, capacity: submission.operand2)
        if expectsReply {
            var wait = Wait(kind: .call, sequence: submission.sequence, object: submission.handle, home: target)
            wait.data = Int(submission.operand)
            wait.capacity = Int(submission.operand2)
            guard let token = channel.begin(slot, wait) else {
                expel(channel.session)
                return false
            }
            call.token = token.rawValue
        }
        let bytes = UnsafeRawBufferPointer(start: data, count: Int(submission.count))
        let isHere = target == own
        var status: Int32
        if isHere {
            status = deliver(submission.handle, call, bytes)
        } else {
            leadership.give()
            status = send(
                target, LiteFunction.request,
                CallHeader(token: call.token, detail: call.capacity, function: submission.handle), bytes, staging)
        }
        if !expectsReply {
            channel.complete(slot, status)
        } else if status != Code.ok {
            _ = completeCall(WaitToken(rawValue: call.token), status, UnsafeRawBufferPointer(start: nil, count: 0))
        } else if !isHere, member(target) == nil {
            // Lost before the wait could be seen to be for that node.
            status = Code.noNode
            _ = completeCall(WaitToken(rawValue: call.token), status, UnsafeRawBufferPointer(start: nil, count: 0))
        }
        return !isHere
    }

    /// Sends a message with its header to a node.
    private func send(
        _ target: UInt64, _ function: FunctionID, _ header: CallHeader, _ bytes: UnsafeRawBufferPointer,
        _ staging: Staging
    ) -> Int32 {
        guard let peer = member(target) else { return Code.noNode }
        header.store(at: staging.base)
        if bytes.count > 0, let start = bytes.baseAddress {
            (staging.base + CallHeader.encodedSize).copyMemory(from: start, byteCount: bytes.count)
        }
        let message = UnsafeRawBufferPointer(start: staging.base, count: CallHeader.encodedSize + bytes.count)
        let nothing = UnsafeMutableRawBufferPointer(start: nil, count: 0)
        return node.call(
            peer, function, request: message, response: nothing, until: .after(configuration.nodeTimeout)
        ).status.lite
    }

    // MARK: Replying

    func serveReply(_ channel: ServiceChannel, _ submission: lite_submission, _ staging: Staging) -> Bool {
        let slot = Int(submission.slot)
        guard let data = channel.bytes(at: submission.data, count: submission.count) else {
            channel.complete(slot, Code.invalid)
            return false
        }
        guard let call = channel.session.takeIncoming(submission.handle) else {
            channel.complete(slot, Code.handle)
            return false
        }
        let isHere = call.node == own
        if !isHere { leadership.give() }
        let bytes = UnsafeRawBufferPointer(start: data, count: Int(submission.count))
        channel.complete(slot, finishCall(call, Code.ok, bytes, staging))
        return !isHere
    }

    /// Ends a call at its caller, wherever that is. Answers `LITE_EGONE` when nobody waits any more. With bytes for
    /// another node there must be staging.
    @discardableResult
    func finishCall(_ call: IncomingCall, _ status: Int32, _ bytes: UnsafeRawBufferPointer, _ staging: Staging?)
        -> Int32
    {
        if call.token == 0 { return Code.ok }
        let fits = UInt64(bytes.count) <= call.capacity
        let status = fits ? status : Code.tooLarge
        let bytes = fits ? bytes : UnsafeRawBufferPointer(start: nil, count: 0)
        let result: Int32
        if call.node == own {
            result = completeCall(WaitToken(rawValue: call.token), status, bytes)
        } else {
            let header = CallHeader(token: call.token, detail: UInt64(bitPattern: Int64(status)))
            if let staging {
                result = send(call.node, LiteFunction.reply, header, bytes, staging)
            } else {
                result = withUnsafeTemporaryAllocation(byteCount: CallHeader.encodedSize, alignment: 8) { buffer in
                    send(call.node, LiteFunction.reply, header, bytes, Staging(base: buffer.baseAddress!))
                }
            }
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
