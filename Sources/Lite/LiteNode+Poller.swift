import CLinux
import Fabric
import Glibc
import Kernel
import Synchronization
import Wire

// The poller: one thread per node that takes what arrives in the shared request queue. After a request it spins for a while, as the next is
// often close behind; an idle node's poller sleeps on the queue's descriptor.
extension LiteNode {
    /// The poller's body.
    func poll() {
        pollerThread.store(lego_thread_id(), ordering: .relaxed)
        let batch = UnsafeMutableBufferPointer<WorkCompletion>.allocate(capacity: 32)
        defer { batch.deallocate() }
        while true {
            spinForRequests(batch)
            settle()
            if isStopping.load(ordering: .acquiring), membership.withLock({ $0.links.allSatisfy { $0 == nil } }) {
                return
            }
            requests.arm()
            if drainRequests(batch) { continue }
            sleepForRequests()
        }
    }

    /// Serves requests until none has come for the configured time.
    @specialized(where Device == HybridDevice)
    func spinForRequests(_ batch: UnsafeMutableBufferPointer<WorkCompletion>) {
        if !drainRequests(batch) || spin_ns == 0 || !gauge.shouldSpin() { return }
        var limit = monotonicNanoseconds() &+ spin_ns
        repeat {
            for _ in 0..<16 {
                if drainRequests(batch) {
                    gauge.succeed()
                    limit = monotonicNanoseconds() &+ spin_ns
                }
                lego_spin_pause()
            }
            if failures.load(ordering: .relaxed) != 0 || unsent.load(ordering: .relaxed) != 0 { return }
        } while monotonicNanoseconds() < limit
        gauge.fail()
    }

    @inline(__always)
    @discardableResult
    func drainRequests(_ batch: UnsafeMutableBufferPointer<WorkCompletion>) -> Bool {
        let count = requests.poll(into: batch)
        for index in 0..<count { arrive(batch[index]) }
        return count > 0 || (endHandler != nil && drainResponses())
    }

    /// Takes responses, unless somebody else does so just now.
    @inline(__always)
    private func drainResponses() -> Bool {
        if !responses.lock.tryLock() { return false }
        defer { responses.lock.unlock() }
        return responses.drainLocked { arriveResponse($0) }
    }

    private func sleepForRequests() {
        // Something is waiting to be posted or reported: look again soon.
        let soon = unsent.load(ordering: .relaxed) != 0 || !unreported.isEmpty
        if failures.load(ordering: .acquiring) != 0 { return }
        let hasOrphans = mustListen()
        let limit = soon ? 1 : sleepLimit()
        if hasOrphans {
            responses.lock.lock()
            responses.queue.arm()
            responses.drainLocked { arriveResponse($0) }
            responses.lock.unlock()
        }
        var watched = (
            pollfd(fd: requests.notificationDescriptor, events: Int16(POLLIN), revents: 0),
            pollfd(fd: kick.raw, events: Int16(POLLIN), revents: 0),
            pollfd(fd: hasOrphans ? responses.queue.notificationDescriptor : -1, events: Int16(POLLIN), revents: 0)
        )
        withUnsafeMutablePointer(to: &watched) { pointer in
            pointer.withMemoryRebound(to: pollfd.self, capacity: 3) { _ = Glibc.poll($0, 3, limit) }
        }
        if !hasOrphans, detached.load(ordering: .relaxed) > 0 { _ = drainResponses() }
        if watched.0.revents != 0 { requests.acknowledge() }
        if watched.1.revents != 0 { kick.drain() }
        if watched.2.revents != 0 {
            responses.lock.lock()
            responses.queue.acknowledge()
            responses.drainLocked { arriveResponse($0) }
            responses.lock.unlock()
            // The notification was meant for the sentinel too.
            responses.wakeSentinel()
        }
    }

    /// The rare duties: lost links, responses that found no room.
    private func settle() {
        if failures.load(ordering: .acquiring) != 0 {
            for link in membership.withLock({ $0.links.compactMap { $0 } }) where link.isFailing { takeDown(link) }
        }
        if unsent.load(ordering: .acquiring) != 0 { retryUnsent() }
        if detached.load(ordering: .acquiring) > 0 { expireDetached() }
        while let peer = unreported.first, events.add(peer) { unreported.removeFirst() }
    }

    /// Answers whether a link that its initiator wants to join is the one between the two nodes.
    private func join(_ link: Link<Device>) -> Status {
        if link.isInitiator { return .malformed }
        let status = membership.withLock { $0.join(link, self: id) }
        if status.isOK { startModel(link) }
        announceChange()
        return status
    }

    // MARK: Requests

    /// One completion of the request queue.
    @inline(__always)
    func arrive(_ completion: WorkCompletion) {
        let id = ReceiveID(rawValue: completion.id)
        guard id.link < configuration.peers_max else { return }
        let entry = lego_atomic_load_u64(table + id.link)
        guard entry != 0, let pointer = UnsafeRawPointer(bitPattern: UInt(entry)) else { return }
        let link = Unmanaged<Link<Device>>.fromOpaque(pointer).takeUnretainedValue()
        if link.generation != id.generation { return }
        guard completion.status == .success, completion.kind == .receiveImmediate, link.isReady,
            let port = link.ports[id.pair], let peer = link.peer,
            port.pair.lend({ $0.postReceive(id: completion.id, local: UnsafeBufferPointer(start: nil, count: 0)) }),
            let request = IncomingRequest(completion, link)
        else { return fail(link) }
        serve(request, of: peer, link)
    }

    @inline(__always)
    private func serve(_ request: IncomingRequest, of peer: LitePeer, _ link: Link<Device>) {
        if request.function == 0 { return respond(link, request, CallResult(status: join(link))) }
        // Only the acceptor may be called on a link that is not joined, and only to join it; the initiator may be called at once,
        // as the peer joins the link before the answer that says so has arrived here.
        if !link.isJoined {
            guard link.isInitiator, establish(link) else { return fail(link) }
        }
        guard let place = functions.place(request.function) else {
            return respond(link, request, CallResult(status: .noFunction))
        }
        if request.count > functions.entries[place].requestBytes_max {
            return respond(link, request, CallResult(status: .tooLarge))
        }
        if case .worker = functions.entries[place].thread {
            link.beginServing()
            if workers.add(Job(link: link, peer: peer, request: request.at(place))) { return }
            respond(link, request, CallResult(status: .busy))
            return link.endServing()
        }
        respond(link, request, handle(request.at(place), of: peer, link))
    }

    /// A worker's part: runs a handler and sends what it answers.
    func work(_ job: Job) {
        respond(job.link, job.request, handle(job.request, of: job.peer, job.link))
        job.link.endServing()
    }

    /// Runs the handler of a request.
    @inline(__always)
    private func handle(_ request: IncomingRequest, of peer: LitePeer, _ link: Link<Device>) -> CallResult {
        let place = request.place
        let room = min(functions.entries[place].responseBytes_max, link.messageLimit)
        let body = link.inbox + (link.layout.requestOffset(request.slot) + MessageHeader.encodedSize)
        let answer = link.outbox + (link.layout.responseOffset(request.slot) + MessageHeader.encodedSize)
        let result = functions.entries[place].handler(
            peer, UnsafeRawBufferPointer(start: body, count: request.count),
            UnsafeMutableRawBufferPointer(start: answer, count: room))
        if result.count < 0 || result.count > room { return CallResult(status: .tooLarge) }
        return result
    }

    // MARK: Responses

    /// Sends the response to a request, from the slot's part of the outbox. The poller, or the worker that serves the request.
    @inline(__always)
    func respond(_ link: Link<Device>, _ request: IncomingRequest, _ result: CallResult) {
        let slot = request.slot
        let header = MessageHeader(
            count: result.count, word: UInt32(bitPattern: result.status.rawValue), call: request.call)
        header.store(at: link.outbox + link.layout.responseOffset(slot))
        // The peer may use the slot again as soon as it has the response.
        lego_atomic_store_u32(link.serving + slot, 0)
        if postResponse(link, slot: slot, count: result.count) || link.isLost { return }
        link.unsent.withLock { $0.append(Link<Device>.UnsentResponse(slot: slot, count: result.count)) }
        _ = unsent.add(1, ordering: .sequentiallyConsistent)
        kick.signal()
    }

    /// False when the send queue is full.
    @inline(__always)
    private func postResponse(_ link: Link<Device>, slot: Int, count: Int) -> Bool {
        if link.isLost { return true }
        guard let port = link.ports[link.responsePair(slot)] else { return true }
        port.gate.lock.lock()
        defer { port.gate.lock.unlock() }
        port.elements[0] = ScatterElement(
            address: link.outbox + link.layout.responseOffset(slot), count: MessageHeader.encodedSize + count,
            localKey: link.outboxKey)
        var work = WorkRequest(.writeWithImmediate, local: UnsafeBufferPointer(start: port.elements, count: 1))
        work.remoteAddress = link.remoteResponse(slot)
        work.remoteKey = link.remoteMessageKey
        work.immediate = MessageImmediate(response: slot).rawValue
        work.isInline = MessageHeader.encodedSize + count <= port.inlineBytes_max
        return port.postLocked(&work, link.transferWaiters)
    }

    @inline(never)
    private func retryUnsent() {
        for link in membership.withLock({ $0.links.compactMap { $0 } }) {
            let waiting = link.unsent.withLock { list in
                defer { list = [] }
                return list
            }
            if waiting.isEmpty { continue }
            let left = waiting.filter { !postResponse(link, slot: $0.slot, count: $0.count) }
            link.unsent.withLock { $0.append(contentsOf: left) }
            _ = unsent.subtract(waiting.count - left.count, ordering: .sequentiallyConsistent)
        }
    }

    // MARK: Loss

    /// Reports that a link is of no use any more: a queue pair failed, the peer broke the protocol, or somebody disconnects. The poller takes
    /// it down. Any thread, does not wait.
    @inline(never)
    func fail(_ link: Link<Device>) {
        if !link.beginFailing() { return }
        _ = failures.add(1, ordering: .sequentiallyConsistent)
        kick.signal()
    }

    /// Ends a link: nothing can be sent or received on it, all who wait are woken. The poller only.
    private func takeDown(_ link: Link<Device>) {
        if link.isDown { return }
        let lostPeer = membership.withLock { membership -> LitePeer? in
            link.markLost()
            let wasEstablished = membership.remove(link)
            let peer = link.takePeer()
            return wasEstablished ? peer : nil
        }
        _ = failures.subtract(1, ordering: .sequentiallyConsistent)
        for pair in 0..<LiteLimit.queuePairs.upperBound { link.ports[pair]?.pair.object.disconnect() }
        responses.lock.lock()
        // A node that does not call has nobody else to take the flushed receives of lost links: the queue holds those of every peer
        // once, so it never overflows.
        responses.drainLocked { arriveResponse($0) }
        lego_atomic_store_u64(table + link.index, 0)
        for slot in 0..<link.layout.calls {
            let waiter = link.callWaiters + slot
            switch waiter.state {
            case Waiter.State.pending, Waiter.State.sleeping: responses.finishLocked(waiter, Waiter.State.lost)
            case Waiter.State.abandoned:
                waiter.reset()
                link.calls.give(slot)
                _ = orphans.subtract(1, ordering: .sequentiallyConsistent)
            case Waiter.State.detached:
                let token = endedLocked(waiter)
                waiter.reset()
                link.calls.give(slot)
                endHandler?(token, .peerLost)
            default: break
            }
        }
        responses.lock.unlock()
        responses.wakeSentinel()
        link.calls.wakeAll()
        link.transfers.wakeAll()
        let unsentHere = link.unsent.withLock { list in
            defer { list = [] }
            return list.count
        }
        _ = unsent.subtract(unsentHere, ordering: .sequentiallyConsistent)
        if let lostPeer { unreported.append(lostPeer) }
        link.markDown()
        // Only now may another link take the number: the table's entry is out.
        membership.withLock { $0.links[link.index] = nil }
        announceChange()
    }
}

/// A request that has been checked against the link's limits.
struct IncomingRequest {
    let slot: Int
    let function: UInt32
    let count: Int
    let call: UInt64
    /// The function's place in the table, once found.
    private(set) var place = 0

    /// Reads the header that a completion announces, and marks the slot as being served. nil for what no honest peer sends.
    @inline(__always)
    init?<Device: RDMADevice>(_ completion: WorkCompletion, _ link: Link<Device>) {
        let immediate = MessageImmediate(rawValue: completion.immediate)
        let slot = immediate.slot
        guard !immediate.isResponse, slot < link.callLimit, completion.count >= MessageHeader.encodedSize else {
            return nil
        }
        let header = MessageHeader(at: link.inbox + link.layout.requestOffset(slot))
        guard Int(header.count) == Int(completion.count) - MessageHeader.encodedSize,
            Int(header.count) <= link.messageLimit, lego_atomic_exchange_u32(link.serving + slot, 1) == 0
        else { return nil }
        self.slot = slot
        function = header.word
        count = Int(header.count)
        call = header.call
    }

    @inline(__always)
    func at(_ place: Int) -> IncomingRequest {
        var copy = self
        copy.place = place
        return copy
    }
}
