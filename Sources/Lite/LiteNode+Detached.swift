import CLinux
import Fabric
import Kernel
import Wire

// Calls that nobody waits for: their end is told to `onEnded`. For owners with more calls under way than threads.
extension LiteNode {
    /// Begins a call whose response carries no bytes, or none that matter; does not wait. `token` is what its end is
    /// told with. The request consists of the two parts, which have been copied when this returns. Where `isUrgent` is
    /// false, an end by a response may be told late: when the poller wakes for something else, or at its next look at
    /// deadlines, some 100 ms later. That spares two thread switches where the response matters only if it is a refusal.
    ///
    /// Answers `ok` when the call is under way. Else nothing was sent and nothing will be told: `busy` when all slots
    /// for calls to the peer, or its send queue, are full; `tooLarge`; `peerLost`. Needs `onEnded`.
    @specialized(where Device == HybridDevice)
    public func begin(
        _ peer: LitePeer, _ function: FunctionID, _ request: UnsafeRawBufferPointer, _ rest: UnsafeRawBufferPointer,
        token: UInt64, isUrgent: Bool, until deadline: Deadline
    ) -> Status {
        guard let link = link(of: peer) else { return .peerLost }
        if request.count + rest.count > link.messageLimit { return link.isLost ? .peerLost : .tooLarge }
        guard let slot = link.calls.take() ?? takeAnswered(link) else { return link.isLost ? .peerLost : .busy }
        let waiter = link.callWaiters + slot
        waiter.pointee.call = waiter.pointee.call &+ 1
        waiter.pointee.token = token
        waiter.pointee.limit_ns = deadline.nanoseconds
        waiter.pointee.isUrgent = isUrgent ? 1 : 0
        // Nobody else looks at the slot before it is posted: until then it is pending, and not told of.
        waiter.begin()
        if link.isLost {
            link.giveCall(slot)
            return .peerLost
        }
        _ = detached.add(1, ordering: .sequentiallyConsistent)
        if isUrgent { _ = urgent.add(1, ordering: .sequentiallyConsistent) }
        _ = begun.add(1, ordering: .relaxed)
        // The poller sleeps without a thought of deadlines, or of responses.
        if isUntimed.load(ordering: .sequentiallyConsistent)
            ? isUntimed.exchange(false, ordering: .sequentiallyConsistent)
            : isUrgent && isDeaf.load(ordering: .sequentiallyConsistent)
        {
            kick.signal()
        }
        responses.lock.lock()
        // A link that was taken down meanwhile has marked it lost.
        if waiter.isOver {
            responses.lock.unlock()
            forget(waiter)
            link.giveCall(slot)
            return .peerLost
        }
        lego_atomic_store_u32(waiter.word, Waiter.State.detached)
        let call = waiter.pointee.call
        responses.lock.unlock()
        return postRequest(link, slot, function.rawValue, request, rest, call) ? .ok : withdraw(link, slot, call)
    }

    /// The send queue was full: the call was not sent. It may have been ended by the loss of the peer all the same.
    @inline(never)
    private func withdraw(_ link: Link<Device>, _ slot: Int, _ call: UInt64) -> Status {
        responses.lock.lock()
        let waiter = link.callWaiters + slot
        let isMine = waiter.state == Waiter.State.detached && waiter.pointee.call == call
        if isMine { lego_atomic_store_u32(waiter.word, Waiter.State.pending) }
        responses.lock.unlock()
        // Else its end has been told.
        if !isMine { return .ok }
        forget(waiter)
        link.giveCall(slot)
        return link.isLost ? .peerLost : .busy
    }

    /// A slot that a response has freed which nobody has looked at yet.
    @inline(never)
    private func takeAnswered(_ link: Link<Device>) -> Int? {
        responses.lock.lock()
        responses.drainLocked { arriveResponse($0) }
        responses.lock.unlock()
        return link.calls.take()
    }

    @inline(__always)
    private func forget(_ waiter: UnsafeMutablePointer<Waiter>) {
        _ = detached.subtract(1, ordering: .relaxed)
        if waiter.pointee.isUrgent != 0 { _ = urgent.subtract(1, ordering: .relaxed) }
    }

    /// Takes a detached call off the books; answers its token. The lock of `responses` is held.
    @inline(__always)
    func endedLocked(_ waiter: UnsafeMutablePointer<Waiter>) -> UInt64 {
        forget(waiter)
        return waiter.pointee.token
    }

    /// How often the poller looks at deadlines, and for how long it goes on doing so after the last detached call.
    private static var tick_ns: UInt64 { 100_000_000 }
    private static var quiet_ns: UInt64 { 1_000_000_000 }

    /// Milliseconds that the poller may sleep: without end only where no detached call can need it. The poller only.
    func sleepLimit() -> Int32 {
        if endHandler == nil { return -1 }
        let count = begun.load(ordering: .relaxed)
        if count != begunSeen {
            begunSeen = count
            lastBegun_ns = monotonicNanoseconds()
        } else if monotonicNanoseconds() &- lastBegun_ns > Self.quiet_ns {
            isUntimed.store(true, ordering: .sequentiallyConsistent)
            if detached.load(ordering: .sequentiallyConsistent) == 0 { return -1 }
            isUntimed.store(false, ordering: .relaxed)
        }
        return Int32(Self.tick_ns / 1_000_000)
    }

    /// Whether the poller, which is about to sleep, is to be woken by responses that nobody else waits for.
    func mustListen() -> Bool {
        if endHandler == nil { return orphans.load(ordering: .acquiring) > 0 }
        isDeaf.store(true, ordering: .sequentiallyConsistent)
        let listens = urgent.load(ordering: .sequentiallyConsistent) > 0 || orphans.load(ordering: .acquiring) > 0
        if listens { isDeaf.store(false, ordering: .relaxed) }
        return listens
    }

    /// Gives up the calls whose time is over: their slots stay taken until the response or the loss of the peer. The
    /// poller only.
    func expireDetached() {
        let now = monotonicNanoseconds()
        if now &- lastExpiry_ns < Self.tick_ns { return }
        lastExpiry_ns = now
        for link in membership.withLock({ $0.links.compactMap { $0 } }) where !link.isLost {
            for slot in 0..<link.layout.calls {
                let waiter = link.callWaiters + slot
                guard waiter.state == Waiter.State.detached, waiter.pointee.limit_ns <= now else { continue }
                responses.lock.lock()
                if waiter.state == Waiter.State.detached, waiter.pointee.limit_ns <= now {
                    _ = orphans.add(1, ordering: .sequentiallyConsistent)
                    let token = endedLocked(waiter)
                    lego_atomic_store_u32(waiter.word, Waiter.State.abandoned)
                    endHandler?(token, .timedOut)
                }
                responses.lock.unlock()
            }
        }
    }
}
