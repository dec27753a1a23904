import CLite
import Kernel

/// An asynchronous read or write under way, see `LiteSession.wait`.
public struct LiteOperation: Sendable {
    /// Channel and slot.
    var place: UInt64
    /// Tells the operations of a slot apart.
    var generation: UInt64
}

extension LiteSession {
    /// A blocking transfer. Large ones go in parts, several under way at a time; the daemon checks the whole range
    /// with the first.
    @inline(__always)
    func transfer(
        _ opcode: lite_opcode, _ handle: UInt64, _ offset: UInt64, _ buffer: UnsafeMutableRawPointer, _ count: Int
    ) -> Int32 {
        if count <= 0 { return LITE_EINVAL.code }
        if let place = buffers.place(buffer, count) { return transferInPlace(opcode, handle, offset, place, count) }
        if count > Int(LITE_CELL) { return transferLarge(opcode, handle, offset, buffer, count) }
        return withChannel(channelNumber) { channel in
            guard var ticket = channel.takeWaiting(bytes: count) else { return LITE_EBUSY.code }
            let data = channel.base + ticket.data
            let isWord = count == 8
            if opcode == LITE_OP_WRITE, !isWord { data.copyMemory(from: buffer, byteCount: count) }
            let word = isWord && opcode == LITE_OP_WRITE ? buffer.loadUnaligned(as: UInt64.self) : 0
            var submission = submission(opcode, handle, offset, count, at: UInt64(ticket.data), whole: count)
            if isWord {
                submission.flags = UInt8(LITE_FLAG_WORD)
                submission.operand2 = word
            }
            channel.post(&submission, &ticket)
            let outcome = channel.wait(ticket, until: .never, copying: count)
            if outcome.status == 0, opcode == LITE_OP_READ {
                if isWord {
                    buffer.storeBytes(of: outcome.value, as: UInt64.self)
                } else {
                    buffer.copyMemory(from: data, byteCount: count)
                }
            }
            if outcome.status != LITE_EDAEMON.code { channel.give(ticket) }
            return outcome.status
        }
    }

    /// What says where a transfer's bytes lie. `whole`: bytes that must be inside the region.
    @inline(__always)
    private func submission(
        _ opcode: lite_opcode, _ handle: UInt64, _ offset: UInt64, _ count: Int, at place: UInt64, whole: Int
    ) -> lite_submission {
        var submission = lite_submission()
        submission.opcode = UInt8(truncatingIfNeeded: opcode.rawValue)
        submission.handle = handle
        submission.offset = offset
        submission.count = UInt64(count)
        submission.data = place
        submission.operand = UInt64(whole)
        return submission
    }

    /// A transfer of memory that the daemon reaches: nothing is copied here.
    @inline(__always)
    private func transferInPlace(
        _ opcode: lite_opcode, _ handle: UInt64, _ offset: UInt64, _ place: UInt64, _ count: Int
    ) -> Int32 {
        if count > Int(LITE_ASYNC_MAX) { return transferParts(opcode, handle, offset, nil, place, count) }
        return withChannel(channelNumber) { channel in
            guard var ticket = channel.takeWaiting(bytes: 0) else { return LITE_EBUSY.code }
            var submission = submission(opcode, handle, offset, count, at: place, whole: count)
            channel.post(&submission, &ticket)
            let outcome = channel.wait(ticket, until: .never, copying: count)
            if outcome.status != LITE_EDAEMON.code { channel.give(ticket) }
            return outcome.status
        }
    }

    @inline(never)
    private func transferLarge(
        _ opcode: lite_opcode, _ handle: UInt64, _ offset: UInt64, _ buffer: UnsafeMutableRawPointer, _ count: Int
    ) -> Int32 { transferParts(opcode, handle, offset, buffer, 0, count) }

    /// Parts of a transfer that are under way at a time: while the daemon copies one, the program copies another.
    private static var window: Int { 4 }
    /// How many bytes a part has: so few that the copies overlap, so many that a part's own cost does not show.
    private static func partBytes(_ count: Int) -> Int {
        min(max((count / 4 + 4095) & ~4095, 16 << 10), Int(LITE_BLOCK))
    }

    /// `buffer`: the program's memory, by way of the channel; nil for a place in a buffer.
    @inline(never)
    private func transferParts(
        _ opcode: lite_opcode, _ handle: UInt64, _ offset: UInt64, _ buffer: UnsafeMutableRawPointer?, _ place: UInt64,
        _ count: Int
    ) -> Int32 {
        let channel = channel
        let window = Self.window
        let partBytes = buffer == nil ? Int(LITE_ASYNC_MAX) : Self.partBytes(count)
        return withUnsafeTemporaryAllocation(of: (ticket: Ticket, at: Int, count: Int).self, capacity: window) {
            parts in
            var posted = 0
            var finished = 0
            var next = 0
            var status: Int32 = 0
            while next < count || finished < posted {
                if next < count, status == 0, posted - finished < window {
                    let part = min(count - next, partBytes)
                    let room = buffer == nil ? 0 : part
                    // Waits for others' blocks only while it holds none itself.
                    let taken = posted == finished ? channel.takeWaiting(bytes: room) : channel.take(bytes: room)
                    if var ticket = taken {
                        if opcode == LITE_OP_WRITE, let buffer {
                            (channel.base + ticket.data).copyMemory(from: buffer + next, byteCount: part)
                        }
                        var submission = submission(
                            opcode, handle, offset &+ UInt64(next), part,
                            at: buffer == nil ? place + UInt64(next) : UInt64(ticket.data), whole: count - next)
                        channel.post(&submission, &ticket)
                        parts[posted % window] = (ticket, next, part)
                        posted += 1
                        next += part
                        continue
                    }
                    if posted == finished { return LITE_EBUSY.code }
                }
                if finished == posted { break }
                let (ticket, at, size) = parts[finished % window]
                let outcome = channel.wait(ticket, until: .never, copying: size)
                if outcome.status == 0, opcode == LITE_OP_READ, let buffer {
                    (buffer + at).copyMemory(from: channel.base + ticket.data, byteCount: size)
                }
                if outcome.status != LITE_EDAEMON.code { channel.give(ticket) }
                if status == 0 { status = outcome.status }
                finished += 1
            }
            return status
        }
    }

    func start(
        _ opcode: lite_opcode, _ handle: UInt64, _ offset: UInt64, _ buffer: UnsafeMutableRawPointer, _ count: Int,
        _ operation: inout LiteOperation
    ) -> Int32 {
        guard count > 0, count <= Int(LITE_ASYNC_MAX) else { return LITE_EINVAL.code }
        let number = channelNumber
        let place = buffers.place(buffer, count)
        let isCopied = place == nil
        var submission = submission(opcode, handle, offset, count, at: place ?? 0, whole: count)
        let begun = withChannel(number) { channel in
            channel.begin(
                &submission, room: isCopied ? count : 0, from: isCopied && opcode == LITE_OP_WRITE ? buffer : nil,
                target: isCopied && opcode == LITE_OP_READ ? buffer : nil)
        }
        guard let (slot, generation) = begun else { return LITE_EBUSY.code }
        operation = LiteOperation(place: UInt64(number) << 16 | UInt64(slot), generation: generation)
        return 0
    }

    /// Runs `body` on the channel and slot of an operation that nobody has waited for yet.
    @inline(__always)
    private func with(_ operation: LiteOperation, _ body: (ClientChannel, Int) -> Int32) -> Int32 {
        let number = Int(operation.place >> 16)
        let slot = Int(operation.place & 0xffff)
        guard number < channels.count, slot < Int(LITE_SLOTS) else { return LITE_EINVAL.code }
        return withChannel(number) { body($0, slot) }
    }

    func finish(_ operation: LiteOperation) -> Int32 {
        with(operation) { channel, slot in
            guard let noted = channel.claim(slot, operation.generation) else { return LITE_EINVAL.code }
            let outcome = channel.wait(noted.ticket, until: .never, copying: noted.count)
            if outcome.status == 0, let target = noted.target {
                target.copyMemory(from: channel.base + noted.ticket.data, byteCount: noted.count)
            }
            if outcome.status != LITE_EDAEMON.code { channel.give(noted.ticket) }
            return outcome.status
        }
    }

    func test(_ operation: LiteOperation) -> Int32 {
        with(operation) { channel, slot in
            guard let ticket = channel.ticket(slot, operation.generation) else { return LITE_EINVAL.code }
            return channel.isDone(ticket) ? 1 : 0
        }
    }

    func atomic(
        _ opcode: lite_opcode, _ handle: UInt64, _ offset: UInt64, _ operand: UInt64, _ operand2: UInt64,
        _ former: inout UInt64
    ) -> Int32 {
        var value: UInt64 = 0
        let status = run(opcode, bytes: 0) { submission, _ in
            submission.handle = handle
            submission.offset = offset
            submission.count = 8
            submission.operand = operand
            submission.operand2 = operand2
        } collect: { outcome, _ in
            value = outcome.value
        }
        if status >= 0 { former = value }
        return status
    }

    func set(_ handle: UInt64, _ offset: UInt64, _ byte: UInt8, _ count: UInt64) -> Int32 {
        run(LITE_OP_SET, bytes: 0) { submission, _ in
            submission.handle = handle
            submission.offset = offset
            submission.count = count
            submission.operand = UInt64(byte)
        }
    }

    func copy(
        _ opcode: lite_opcode, _ to: UInt64, _ toOffset: UInt64, _ from: UInt64, _ fromOffset: UInt64, _ count: UInt64
    ) -> Int32 {
        run(opcode, bytes: 0) { submission, _ in
            submission.handle = to
            submission.offset = toOffset
            submission.count = count
            submission.operand = from
            submission.operand2 = fromOffset
        }
    }

    // MARK: Public

    public func read(_ region: LiteRegion, at offset: UInt64 = 0, into buffer: UnsafeMutableRawBufferPointer)
        throws(LiteFailure)
    {
        guard let start = buffer.baseAddress else { throw .invalid }
        try LiteFailure.check(transfer(LITE_OP_READ, region.handle, offset, start, buffer.count))
    }

    public func write(_ region: LiteRegion, at offset: UInt64 = 0, from buffer: UnsafeRawBufferPointer)
        throws(LiteFailure)
    {
        guard let start = buffer.baseAddress else { throw .invalid }
        // Only read from: the opcode says so.
        let source = UnsafeMutableRawPointer(mutating: start)
        try LiteFailure.check(transfer(LITE_OP_WRITE, region.handle, offset, source, buffer.count))
    }

    /// Begins a read of at most 1 MiB; the buffer is written by `wait`, and must live until then.
    public func beginRead(_ region: LiteRegion, at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer)
        throws(LiteFailure) -> LiteOperation
    {
        guard let start = buffer.baseAddress else { throw .invalid }
        var operation = LiteOperation(place: 0, generation: 0)
        try LiteFailure.check(begin(LITE_OP_READ, region, offset, start, buffer.count, &operation))
        return operation
    }

    /// Begins a write of at most 1 MiB; the buffer has been copied when this returns.
    public func beginWrite(_ region: LiteRegion, at offset: UInt64, from buffer: UnsafeRawBufferPointer)
        throws(LiteFailure) -> LiteOperation
    {
        guard let start = buffer.baseAddress else { throw .invalid }
        var operation = LiteOperation(place: 0, generation: 0)
        let source = UnsafeMutableRawPointer(mutating: start)
        try LiteFailure.check(begin(LITE_OP_WRITE, region, offset, source, buffer.count, &operation))
        return operation
    }

    private func begin(
        _ opcode: lite_opcode, _ region: LiteRegion, _ offset: UInt64, _ start: UnsafeMutableRawPointer, _ count: Int,
        _ operation: inout LiteOperation
    ) -> Int32 { self.start(opcode, region.handle, offset, start, count, &operation) }

    /// Waits for an operation and ends it; once for each.
    public func wait(_ operation: LiteOperation) throws(LiteFailure) { try LiteFailure.check(finish(operation)) }

    /// Whether `wait` would not wait.
    public func isDone(_ operation: LiteOperation) throws(LiteFailure) -> Bool {
        try LiteFailure.check(test(operation)) == 1
    }

    /// Fills a range with a byte, at the nodes that hold it.
    public func memset(_ region: LiteRegion, at offset: UInt64, _ byte: UInt8, count: UInt64) throws(LiteFailure) {
        try LiteFailure.check(set(region.handle, offset, byte, count))
    }

    /// Copies between regions, or within one where the ranges do not overlap, at the nodes that hold them.
    public func memcpy(
        to: LiteRegion, at toOffset: UInt64, from: LiteRegion, at fromOffset: UInt64, count: UInt64
    ) throws(LiteFailure) {
        try LiteFailure.check(copy(LITE_OP_COPY, to.handle, toOffset, from.handle, fromOffset, count))
    }

    /// The same for ranges that may overlap.
    public func memmove(
        to: LiteRegion, at toOffset: UInt64, from: LiteRegion, at fromOffset: UInt64, count: UInt64
    ) throws(LiteFailure) {
        try LiteFailure.check(copy(LITE_OP_MOVE, to.handle, toOffset, from.handle, fromOffset, count))
    }

    /// Adds to an aligned word of 8 bytes; answers what it held.
    public func fetchAdd(_ region: LiteRegion, at offset: UInt64, _ add: UInt64) throws(LiteFailure) -> UInt64 {
        var former: UInt64 = 0
        try LiteFailure.check(atomic(LITE_OP_FETCH_ADD, region.handle, offset, add, 0, &former))
        return former
    }

    /// Stores `desired` in an aligned word of 8 bytes if it holds `expected`; answers what it held.
    public func testSet(_ region: LiteRegion, at offset: UInt64, expected: UInt64, desired: UInt64)
        throws(LiteFailure) -> UInt64
    {
        var former: UInt64 = 0
        try LiteFailure.check(atomic(LITE_OP_COMPARE_SWAP, region.handle, offset, expected, desired, &former))
        return former
    }
}
