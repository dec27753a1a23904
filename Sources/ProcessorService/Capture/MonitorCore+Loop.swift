import CLinux
import Glibc
import Kernel
import Synchronization
import Wire

extension MonitorCore {
    private static let events_max = 64
    /// How often address spaces that nobody reports on are looked after.
    private static let sweep: Duration = .seconds(1)
    /// How long a fault waits that came while its address space was changing and whose event has not arrived yet.
    private static let retry: Duration = .milliseconds(1)

    /// The monitor's thread.
    func run() {
        _ = lego_seccomp_wake_in_place(listener.raw)
        startColocation()
        let events = UnsafeMutableBufferPointer<epoll_event>.allocate(capacity: Self.events_max)
        defer { events.deallocate() }
        var nextSweep = Deadline.after(Self.sweep)
        while !mailbox.isStopping.load(ordering: .acquiring) {
            setTimer(colocation.isActive ? min(nextSweep, colocation.nextReview) : nextSweep)
            let isRetrying = spaces.contains { $0?.deferred.isEmpty == false }
            let count = epoll.wait(into: events, until: isRetrying ? .after(Self.retry) : .never)
            dispatch(events, count)
            if ahead.evictor.isDone { settleAhead() }
            retryDeferred()
            expireReserves()
            shrinkToLimit()
            if colocation.isActive { reviewColocation() }
            if nextSweep.hasPassed {
                sweepSpaces()
                lego_ptrace_sweep()
                trimCacheShare()
                nextSweep = .after(Self.sweep)
            }
        }
        finish()
    }

    /// Has the loop woken at `moment` at the latest. Earlier is harmless, so a later moment sets nothing.
    private func setTimer(_ moment: Deadline) {
        if moment >= timerSet { return }
        timer.arm(at: moment)
        timerSet = moment
    }

    /// Page faults and events first, then system calls, then exits: an event that precedes a call is seen before it.
    private func dispatch(_ events: UnsafeMutableBufferPointer<epoll_event>, _ count: Int) {
        for index in 0..<count where events[index].data.u64 >> 60 == Token.userfaultKind {
            if let space = space(of: events[index].data.u64) { serve(space) }
        }
        for index in 0..<count {
            let word = events[index].data.u64
            if word >> 60 == Token.listenerKind {
                listenerReady(Int32(bitPattern: UInt32(truncatingIfNeeded: word)), events[index].events)
                continue
            }
            switch word {
            case Token.mailbox.word: readMailbox()
            case Token.timer.word:
                timer.drain()
                timerSet = .never
            case Token.shrink.word:
                share.shrinkRequest.drain()
                shrinkToCeiling()
            default: break
            }
        }
        while !setAside.isEmpty { handle(setAside.removeFirst()) }
        for index in 0..<count {
            let word = events[index].data.u64
            guard let space = space(of: word) else { continue }
            switch word >> 60 {
            case Token.agentKind: agentEnded(space)
            case Token.userKind: usersChanged(space)
            default: break
            }
        }
    }

    private func space(of word: UInt64) -> AddressSpace? {
        space(slot: Int(word >> 32 & 0xfff_ffff), generation: UInt32(truncatingIfNeeded: word))
    }

    private func listenerReady(_ ready: Int32, _ events: UInt32) {
        if events & UInt32(EPOLLIN.rawValue) != 0 {
            var notification = lego_notification()
            if lego_seccomp_receive(ready, &notification) == 0 { handle(notification) }
        } else if events & UInt32(EPOLLHUP.rawValue | EPOLLERR.rawValue) != 0 {
            try? epoll.remove(ready)
            if ready == listener.raw {
                isListenerDone = true
            } else if let index = joinedListeners.firstIndex(of: ready) {
                joinedListeners.remove(at: index)
                close(ready)
            }
        }
    }

    /// Serves the calls of processes that have joined the program.
    private func takeListeners() {
        let joined = mailbox.listeners.withLock { list in
            let joined = list
            list = []
            return joined
        }
        for raw in joined {
            _ = lego_seccomp_wake_in_place(raw)
            joinedListeners.append(raw)
            do {
                try epoll.add(raw, token: Token.listener(raw).word)
            } catch { fail(.internalError("cannot serve a process that joined the program: \(error)")) }
        }
    }

    private func readMailbox() {
        mailbox.wake.drain()
        takeListeners()
        let lost = mailbox.lost.withLock { list in
            let lost = list
            list = []
            return lost
        }
        for node in lost { store.memoryLost(node) }
        checkStore()
        let cores = mailbox.cores.withLock { list in
            let cores = list
            list = []
            return cores
        }
        for core in cores { prepareCore(core) }
    }

    // MARK: Address spaces

    /// Takes a slot for a new address space and watches its faults.
    func addSpace(_ userfault: consuming Descriptor) throws(KernelError) -> AddressSpace {
        let slot = spaces.firstIndex { $0 == nil } ?? spaces.count
        if slot == spaces.count {
            spaces.append(nil)
            generations.append(0)
        }
        generations[slot] += 1
        let space = AddressSpace(slot: slot, generation: generations[slot], userfault: userfault)
        try epoll.add(
            space.userfault.raw, token: Token.userfault(slot: slot, generation: space.generation).word)
        if guardian >= 0 {
            var byte = UInt8(ascii: "u")
            var descriptor = space.userfault.raw
            let sent = lego_send_descriptors(guardian, &byte, 1, &descriptor, 1)
            if sent < 0 { throw KernelError("hand-over of a userfaultfd to the guardian", Int32(-sent)) }
        }
        spaces[slot] = space
        return space
    }

    /// Forgets an address space that has ended.
    func removeSpace(_ space: AddressSpace) {
        if space.isDead { return }
        space.isDead = true
        space.agent?.kill()
        dropAgent(of: space)
        for user in space.users { try? epoll.remove(user.descriptor) }
        try? epoll.remove(space.userfault.raw)
        forgetPages(space, 0..<Page.count_max)
        countUnwatched(space)
        spaces[space.slot] = nil
        inheritCharge(of: space)
        trimCacheShare()
    }

    /// Whether the kernel still has the address space: asks for something harmless.
    func isGone(_ space: AddressSpace) -> Bool {
        let identity = agentIdentityAddress
        return lego_uffd_write_protect(space.userfault.raw, identity, Page.bytes, 0) == -ESRCH
    }

    private func agentEnded(_ space: AddressSpace) {
        guard let agent = space.agent, !agent.isAlive else { return }
        dropAgent(of: space)
        if isGone(space) { removeSpace(space) }
    }

    /// Forgets an agent that has ended or is about to. Whoever its parent is may not reap it for long: the program itself, where
    /// that is the first process of a pid namespace.
    func dropAgent(of space: AddressSpace) {
        guard let agent = space.agent else { return }
        try? epoll.remove(agent.descriptor.raw)
        space.agent = nil
        endedAgents.append(agent.process)
        if endedAgents.count > Self.endedAgents_max { endedAgents.removeAll { !Self.isUnreaped($0) } }
    }

    private static let endedAgents_max = 64

    /// Whether that is an agent that nobody has reaped. Reads /proc.
    static func isUnreaped(_ process: Int32) -> Bool {
        ProcessFiles.statusField(process, "Name") == Agent.name
    }

    /// A process of an address space has ended, and whoever shall reap it may wait for this thread's processor: when it was the
    /// last one that is known, the agent must not keep the address space alive.
    private func usersChanged(_ space: AddressSpace) {
        space.users.removeAll { user in
            if lego_pidfd_has_ended(user.descriptor) == 0 { return false }
            try? epoll.remove(user.descriptor)
            _ = Descriptor(taking: user.descriptor)
            stopHolding(user.process)
            return true
        }
        abandonIfUnused(space)
    }

    func abandonIfUnused(_ space: AddressSpace) {
        if !space.users.isEmpty { return }
        if space.agent != nil { space.agent?.kill() } else if isGone(space) { removeSpace(space) }
    }

    /// Finds address spaces that ended without anybody saying so: forked children that never made a trapped call.
    func sweepSpaces() {
        for space in spaces {
            guard let space, space.agent == nil else { continue }
            if isGone(space) { removeSpace(space) }
        }
    }

    /// Gives cache that the program does not use back to the others.
    func trimCacheShare() {
        let spare = share.granted - held - 512
        if spare > 0 { cache.release(spare, of: share) }
    }

    /// A fork doubles what is resident, and an injection finds pages that nobody made room for.
    private func shrinkToLimit() {
        if held > limitPages || held > share.granted { makeRoom(0, mayForce: true) }
    }

    private func shrinkToCeiling() {
        let ceiling = share.ceilingPages.load(ordering: .relaxed)
        if held > ceiling { watchAll() }
        while resident > ceiling, evictOldest(batchPages, mayForce: true) {}
        let spare = share.granted - max(held, min(ceiling, share.granted))
        if spare > 0 { cache.release(spare, of: share) }
    }

    // MARK: The end

    /// Ends what is left: agents, descriptors, remote memory. The sandbox is dead, or was never started.
    func finish() {
        endColocation()
        for space in spaces { if let space { removeSpace(space) } }
        spaces = []
        for core in mailbox.cores.withLock({ $0 }) { core.finish() }
        awaitAhead()
        ahead.evictor.stop()
        store.releaseAll()
        counters.setResident(0)
        cache.leave(share)
        logger.debug(
            "monitor ended",
            metadata: [
                "program": "\(program)", "trappedCalls": "\(counters.trappedCalls.load(ordering: .relaxed))",
                "injections": "\(counters.injections.load(ordering: .relaxed))",
                "forks": "\(counters.forks.load(ordering: .relaxed))",
                "colocations": "\(counters.colocations.load(ordering: .relaxed))",
                "firstWrites": "\(counters.firstWrites.load(ordering: .relaxed))",
                "followedPages": "\(counters.followedPages.load(ordering: .relaxed))",
                "batchesAhead": "\(counters.batchesAhead.load(ordering: .relaxed))",
                "batchesNeeded": "\(counters.batchesNeeded.load(ordering: .relaxed))",
                "arrivals": "\(arrivals)", "departures": "\(departures)",
                "waitedAhead": "\(counters.waitedAhead.load(ordering: .relaxed)) us",
            ])
    }
}
