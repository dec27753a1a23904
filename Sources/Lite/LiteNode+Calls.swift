import CLinux
import Fabric
import Glibc
import Kernel
import Wire

extension LiteNode {
    /// Calls a function at `peer` and waits for the answer. The response is written into `response`; one that does not fit is
    /// answered `tooLarge`. The calling thread spins for `configuration.spin` and then sleeps. At the deadline it leaves with
    /// `timedOut`: the call may still be executed, and its slot stays taken until the response or the loss of the peer.
    @specialized(where Device == HybridDevice)
    public func call(
        _ peer: LitePeer, _ function: FunctionID, request: UnsafeRawBufferPointer,
        response: UnsafeMutableRawBufferPointer, until deadline: Deadline
    ) -> CallResult {
        guard let link = link(of: peer) else { return CallResult(status: .peerLost) }
        return call(link, function.rawValue, request, response, until: deadline)
    }

    @inline(__always)
    func call(
        _ link: Link<Device>, _ function: UInt16, _ request: UnsafeRawBufferPointer,
        _ response: UnsafeMutableRawBufferPointer, until deadline: Deadline
    ) -> CallResult {
        if request.count > link.messageLimit { return CallResult(status: link.isLost ? .peerLost : .tooLarge) }
        var taken = link.calls.take()
        while taken == nil {
            if link.isLost { return CallResult(status: .peerLost) }
            if !link.calls.waitForChange(until: deadline, orWhen: { link.isLost }) {
                return CallResult(status: .timedOut)
            }
            taken = link.calls.take()
        }
        let slot = taken!
        let waiter = link.callWaiters + slot
        waiter.pointee.call = waiter.pointee.call &+ 1
        waiter.begin()
        // The loss of the peer is marked before waiters are failed: either it shows here, or this waiter was seen.
        if link.isLost {
            link.giveCall(slot)
            return CallResult(status: .peerLost)
        }
        while !postRequest(link, slot, function, request, Self.nothing, waiter.pointee.call) {
            if waiter.isOver || deadline.hasPassed {
                link.giveCall(slot)
                return CallResult(status: link.isLost ? .peerLost : .timedOut)
            }
            sched_yield()
        }
        let over = responses.wait(for: waiter, until: deadline, spin_ns: spin_ns, abandoning: true) {
            self.arriveResponse($0)
        }
        return over ? take(link, slot, response) : leave()
    }

    /// The caller gives up. Nobody may wait for a response any more who would find this one: the poller looks after it.
    @inline(never)
    private func leave() -> CallResult {
        _ = orphans.add(1, ordering: .sequentiallyConsistent)
        kick.signal()
        return CallResult(status: .timedOut)
    }

    /// Takes the outcome of a call that is over, and gives its slot back.
    @inline(__always)
    private func take(_ link: Link<Device>, _ slot: Int, _ response: UnsafeMutableRawBufferPointer) -> CallResult {
        let waiter = link.callWaiters + slot
        defer { link.giveCall(slot) }
        if waiter.state == Waiter.State.lost { return CallResult(status: .peerLost) }
        let count = Int(waiter.pointee.count)
        if count > response.count { return CallResult(status: .tooLarge) }
        if count > 0 {
            let body = link.inbox + (link.layout.responseOffset(slot) + MessageHeader.encodedSize)
            response.baseAddress!.copyMemory(from: body, byteCount: count)
        }
        return CallResult(status: Status(rawValue: waiter.pointee.status), count: count)
    }

    @inline(__always)
    static var nothing: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: nil, count: 0) }

    /// Sends a request that consists of two parts. False when the send queue is full.
    @inline(__always)
    func postRequest(
        _ link: Link<Device>, _ slot: Int, _ function: UInt16, _ request: UnsafeRawBufferPointer,
        _ rest: UnsafeRawBufferPointer, _ call: UInt64
    ) -> Bool {
        guard let port = link.ports[link.requestPair(slot)] else { return true }
        let message = link.outbox + link.layout.requestOffset(slot)
        let count = request.count + rest.count
        MessageHeader(count: count, word: UInt32(function), call: call).store(at: message)
        let body = message + MessageHeader.encodedSize
        if request.count > 0 { body.copyMemory(from: request.baseAddress!, byteCount: request.count) }
        if rest.count > 0 {
            (body + request.count).copyMemory(from: rest.baseAddress!, byteCount: rest.count)
        }
        port.gate.lock.lock()
        defer { port.gate.lock.unlock() }
        port.elements[0] = ScatterElement(
            address: message, count: MessageHeader.encodedSize + count, localKey: link.outboxKey)
        var work = WorkRequest(.writeWithImmediate, local: UnsafeBufferPointer(start: port.elements, count: 1))
        work.remoteAddress = link.remoteRequest(slot)
        work.remoteKey = link.remoteMessageKey
        work.immediate = MessageImmediate(request: slot).rawValue
        work.isInline = MessageHeader.encodedSize + count <= port.inlineBytes_max
        return port.postLocked(&work, link.transferWaiters)
    }

    /// One completion of the response queue, whoever polled it. The lock of `responses` is held.
    @inline(__always)
    func arriveResponse(_ completion: WorkCompletion) {
        let id = ReceiveID(rawValue: completion.id)
        guard id.link < configuration.peers_max else { return }
        let entry = lego_atomic_load_u64(table + id.link)
        guard entry != 0, let pointer = UnsafeRawPointer(bitPattern: UInt(entry)) else { return }
        let link = Unmanaged<Link<Device>>.fromOpaque(pointer).takeUnretainedValue()
        if link.generation != id.generation { return }
        let immediate = MessageImmediate(rawValue: completion.immediate)
        let slot = immediate.slot
        guard completion.status == .success, completion.kind == .receiveImmediate, link.isReady,
            let port = link.ports[id.pair],
            port.pair.lend({ $0.postReceive(id: completion.id, local: UnsafeBufferPointer(start: nil, count: 0)) }),
            immediate.isResponse, slot < link.callLimit, completion.count >= MessageHeader.encodedSize
        else { return fail(link) }
        let header = MessageHeader(at: link.inbox + link.layout.responseOffset(slot))
        let waiter = link.callWaiters + slot
        let state = waiter.state
        guard Int(header.count) == Int(completion.count) - MessageHeader.encodedSize,
            Int(header.count) <= link.messageLimit, header.call == waiter.pointee.call,
            state >= Waiter.State.pending && state <= Waiter.State.detached
        else { return fail(link) }
        if state == Waiter.State.detached {
            let token = endedLocked(waiter)
            link.giveCall(slot)
            endHandler?(token, Status(rawValue: Int32(bitPattern: header.word)))
            return
        }
        if state == Waiter.State.abandoned {
            // The caller left long ago; its response has come at last.
            _ = orphans.subtract(1, ordering: .sequentiallyConsistent)
            link.giveCall(slot)
            return
        }
        waiter.pointee.status = Int32(bitPattern: header.word)
        waiter.pointee.count = header.count
        responses.finishLocked(waiter, Waiter.State.done)
    }
}
