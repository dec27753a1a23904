import CLite
import Kernel

/// A request as `LiteSession.receive` takes it.
public struct LiteRequest: Sendable {
    /// For `reply`; 0: a one-way message, which has no reply.
    public var call: UInt64
    /// The caller's node.
    public var node: UInt64
    /// Bytes received.
    public var count: Int
}

extension LiteSession {
    static let multicast_max = 32

    func register(_ function: UInt16, _ bytes_max: UInt32, _ depth: Int32) -> Int32 {
        run(LITE_OP_REGISTER, bytes: 0) { submission, _ in
            submission.handle = UInt64(function)
            submission.operand = UInt64(bytes_max)
            submission.operand2 = UInt64(clamping: depth)
        }
    }

    func receive(
        _ function: UInt16, _ buffer: UnsafeMutableRawPointer, _ capacity: Int, _ request: inout LiteRequest,
        until deadline: Deadline
    ) -> Int32 {
        // The daemon answers what the function needs; a larger buffer than a message can fill takes no more room for
        // it.
        let room = min(capacity, Int(LITE_MESSAGE_MAX))
        if room < 0 { return LITE_EINVAL.code }
        var taken = LiteRequest(call: 0, node: 0, count: 0)
        let status = run(LITE_OP_RECEIVE, bytes: room, until: deadline) { submission, _ in
            submission.handle = UInt64(function)
            submission.count = UInt64(room)
        } collect: { outcome, data in
            taken = LiteRequest(call: outcome.value, node: outcome.node, count: min(room, Int(clamping: outcome.count)))
            buffer.copyMemory(from: data, byteCount: taken.count)
        }
        if status >= 0 { request = taken }
        return status
    }

    func reply(_ call: UInt64, _ buffer: UnsafeRawPointer?, _ count: Int) -> Int32 {
        if count < 0 || count > Int(LITE_MESSAGE_MAX) { return LITE_ETOOLARGE.code }
        return run(LITE_OP_REPLY, bytes: count) { submission, data in
            if let buffer, count > 0 { data.copyMemory(from: buffer, byteCount: count) }
            submission.handle = call
            submission.count = UInt64(count)
        }
    }

    /// Both in one step; where the daemon cannot send the reply at once, one after the other.
    func replyReceive(
        _ call: UInt64, _ reply: UnsafeRawPointer?, _ count: Int, _ function: UInt16,
        _ buffer: UnsafeMutableRawPointer, _ capacity: Int, _ request: inout LiteRequest, until deadline: Deadline
    ) -> Int32 {
        let room = min(capacity, Int(LITE_MESSAGE_MAX))
        if room < 0 { return LITE_EINVAL.code }
        if count < 0 || count > room { return LITE_ETOOLARGE.code }
        var taken = LiteRequest(call: 0, node: 0, count: 0)
        var again: UInt64 = 0
        let status = run(LITE_OP_REPLY_RECEIVE, bytes: room, until: deadline) { submission, data in
            if let reply, count > 0 { data.copyMemory(from: reply, byteCount: count) }
            submission.handle = UInt64(function)
            submission.count = UInt64(room)
            submission.operand = call
            submission.operand2 = UInt64(count)
        } collect: { outcome, data in
            taken = LiteRequest(call: outcome.value, node: outcome.node, count: min(room, Int(clamping: outcome.count)))
            buffer.copyMemory(from: data, byteCount: taken.count)
        } refuse: {
            again = $0.value
        }
        if status == LITE_EBUSY.code, again != 0 {
            _ = self.reply(again, reply, count)
            return receive(function, buffer, capacity, &request, until: deadline)
        }
        if status >= 0 { request = taken }
        return status
    }

    func send(_ node: UInt64, _ function: UInt16, _ buffer: UnsafeRawPointer?, _ count: Int) -> Int32 {
        if count < 0 || count > Int(LITE_MESSAGE_MAX) { return LITE_ETOOLARGE.code }
        return run(LITE_OP_SEND, bytes: count) { submission, data in
            if let buffer, count > 0 { data.copyMemory(from: buffer, byteCount: count) }
            submission.node = node
            submission.handle = UInt64(function)
            submission.count = UInt64(count)
        }
    }

    /// Posts a call. The reply takes the request's place in the channel.
    private func postCall(
        _ node: UInt64, _ function: UInt16, _ request: UnsafeRawPointer?, _ count: Int, capacity: Int,
        _ channel: ClientChannel, mayWait: Bool
    ) -> Ticket? {
        let room = max(count, capacity)
        guard var ticket = mayWait ? channel.takeWaiting(bytes: room) : channel.take(bytes: room) else { return nil }
        if let request, count > 0 { (channel.base + ticket.data).copyMemory(from: request, byteCount: count) }
        var submission = lite_submission()
        submission.opcode = UInt8(LITE_OP_CALL.rawValue)
        submission.node = node
        submission.handle = UInt64(function)
        submission.data = UInt64(ticket.data)
        submission.count = UInt64(count)
        submission.operand = UInt64(ticket.data)
        submission.operand2 = UInt64(capacity)
        channel.post(&submission, &ticket)
        return ticket
    }

    /// Takes a call's reply and gives its slot back.
    private func finishCall(
        _ channel: ClientChannel, _ ticket: Ticket, _ reply: UnsafeMutableRawPointer?, _ capacity: Int,
        _ received: inout UInt64, until deadline: Deadline
    ) -> Int32 {
        let outcome = channel.wait(ticket, until: deadline, forOthers: true)
        if outcome.status >= 0 {
            let count = min(Int(clamping: outcome.count), capacity)
            received = UInt64(count)
            if let reply, count > 0 { reply.copyMemory(from: channel.base + ticket.data, byteCount: count) }
        }
        if outcome.status != LITE_EDAEMON.code { channel.give(ticket) }
        return outcome.status
    }

    func call(
        _ node: UInt64, _ function: UInt16, _ request: UnsafeRawPointer?, _ count: Int,
        _ reply: UnsafeMutableRawPointer?, _ capacity: Int, _ received: inout UInt64, until deadline: Deadline
    ) -> Int32 {
        if count < 0 || count > Int(LITE_MESSAGE_MAX) { return LITE_ETOOLARGE.code }
        if capacity < 0 { return LITE_EINVAL.code }
        let capacity = min(capacity, Int(LITE_MESSAGE_MAX))
        let channel = channel
        guard let ticket = postCall(node, function, request, count, capacity: capacity, channel, mayWait: true) else {
            return LITE_EBUSY.code
        }
        return finishCall(channel, ticket, reply, capacity, &received, until: deadline)
    }

    func multicast(
        _ nodes: UnsafeBufferPointer<UInt64>, _ function: UInt16, _ request: UnsafeRawPointer?, _ count: Int,
        _ replies: UnsafeMutableRawPointer?, _ capacity: Int, _ received: UnsafeMutablePointer<UInt64>?,
        _ statuses: UnsafeMutablePointer<Int32>?, until deadline: Deadline
    ) -> Int32 {
        guard (1...Self.multicast_max).contains(nodes.count), capacity >= 0 else { return LITE_EINVAL.code }
        if count < 0 || count > Int(LITE_MESSAGE_MAX) || capacity > Int(LITE_MESSAGE_MAX) {
            return LITE_ETOOLARGE.code
        }
        let channel = channel
        var first: Int32 = 0
        withUnsafeTemporaryAllocation(of: Ticket?.self, capacity: nodes.count) { tickets in
            tickets.initialize(repeating: nil)
            var posted = 0
            for index in 0..<nodes.count {
                // Where the channel has not enough room for all at once, the oldest is waited for first.
                while posted < nodes.count {
                    let isOnly = posted == index
                    tickets[posted] = postCall(
                        nodes[posted], function, request, count, capacity: capacity, channel, mayWait: isOnly)
                    if tickets[posted] == nil { break }
                    posted += 1
                }
                var bytes: UInt64 = 0
                var status = LITE_EBUSY.code
                if let ticket = tickets[index] {
                    status = finishCall(
                        channel, ticket, replies.map { $0 + index * capacity }, capacity, &bytes, until: deadline)
                } else {
                    posted = index + 1
                }
                received?[index] = bytes
                statuses?[index] = status
                if first == 0, status < 0 { first = status }
            }
        }
        return first
    }

    // MARK: Public

    /// Serves a function (1 to 65535) of this node: requests of up to `bytes_max` wait, at most `depth`, to be
    /// received.
    public func register(_ function: UInt16, bytes_max: Int, depth: Int = 64) throws(LiteFailure) {
        try LiteFailure.check(register(function, UInt32(clamping: bytes_max), Int32(clamping: depth)))
    }

    public func unregister(_ function: UInt16) throws(LiteFailure) {
        try LiteFailure.check(manage(LITE_OP_UNREGISTER, UInt64(function)))
    }

    /// Waits for the next request, oldest first. The buffer must hold the function's `bytes_max`.
    public func receive(_ function: UInt16, into buffer: UnsafeMutableRawBufferPointer, until deadline: Deadline)
        throws(LiteFailure) -> LiteRequest
    {
        guard let start = buffer.baseAddress else { throw .invalid }
        var request = LiteRequest(call: 0, node: 0, count: 0)
        try LiteFailure.check(receive(function, start, buffer.count, &request, until: deadline))
        return request
    }

    public func reply(_ call: UInt64, _ bytes: UnsafeRawBufferPointer) throws(LiteFailure) {
        try LiteFailure.check(reply(call, bytes.baseAddress, bytes.count))
    }

    /// Answers a request and waits for the next one, in one step; of what becomes of the reply nothing is told. For
    /// servers that do nothing else: half the switches between processes. The two buffers may be the same.
    public func reply(
        _ call: UInt64, _ bytes: UnsafeRawBufferPointer, receiving function: UInt16,
        into buffer: UnsafeMutableRawBufferPointer, until deadline: Deadline
    ) throws(LiteFailure) -> LiteRequest {
        guard let start = buffer.baseAddress else { throw .invalid }
        var request = LiteRequest(call: 0, node: 0, count: 0)
        try LiteFailure.check(
            replyReceive(call, bytes.baseAddress, bytes.count, function, start, buffer.count, &request, until: deadline)
        )
        return request
    }

    /// Calls a function at a node (0: this one); answers the bytes of the reply.
    public func call(
        _ node: UInt64, _ function: UInt16, _ request: UnsafeRawBufferPointer,
        reply: UnsafeMutableRawBufferPointer, until deadline: Deadline
    ) throws(LiteFailure) -> Int {
        var received: UInt64 = 0
        try LiteFailure.check(
            call(
                node, function, request.baseAddress, request.count, reply.baseAddress, reply.count, &received,
                until: deadline))
        return Int(received)
    }

    /// Delivers a message without a reply into the queue of a function.
    public func send(_ node: UInt64, _ function: UInt16, _ bytes: UnsafeRawBufferPointer) throws(LiteFailure) {
        try LiteFailure.check(send(node, function, bytes.baseAddress, bytes.count))
    }
}

extension LiteSession {
    /// Calls a function at up to 32 nodes at once and gathers the replies, in the order of the nodes. Allocates.
    public func multicast(
        _ nodes: [UInt64], _ function: UInt16, _ request: [UInt8], replyBytes_max: Int, until deadline: Deadline
    ) throws(LiteFailure) -> [Result<[UInt8], LiteFailure>] {
        guard (1...Self.multicast_max).contains(nodes.count), replyBytes_max >= 0 else { throw .invalid }
        var received = [UInt64](repeating: 0, count: nodes.count)
        var statuses = [Int32](repeating: 0, count: nodes.count)
        let replies = UnsafeMutableRawBufferPointer.allocate(
            byteCount: max(1, nodes.count * replyBytes_max), alignment: 16)
        defer { replies.deallocate() }
        let status = nodes.withUnsafeBufferPointer { nodes in
            request.withUnsafeBytes { bytes in
                multicast(
                    nodes, function, bytes.baseAddress, bytes.count, replies.baseAddress, replyBytes_max, &received,
                    &statuses, until: deadline)
            }
        }
        // Without a status of their own the arguments were refused.
        if status < 0, statuses.allSatisfy({ $0 == 0 }) { throw LiteFailure(status: status) }
        return nodes.indices.map { index in
            if statuses[index] < 0 { return .failure(LiteFailure(status: statuses[index])) }
            let start = index * replyBytes_max
            return .success(Array(replies[start..<start + Int(received[index])]))
        }
    }
}
