import CAgent
import CLinux
import Glibc
import Kernel

/// Eviction (docs/ARCHITECTURE.md, "Page life"): the oldest pages of the program leave in batches. What was never written
/// since it came is dropped; what was written is moved out by the agent, atomically against the program's other threads,
/// and written to remote memory.
extension MonitorCore {
    /// Makes it possible to map `pages` more. Gives up when nothing can be evicted: the program then exceeds its limit
    /// rather than hang.
    ///
    /// Only the loop may force an injection for it (`mayForce`): a fault that is being served would have to be answered
    /// first.
    @discardableResult
    func makeRoom(_ pages: Int, mayForce: Bool = false) -> Bool {
        while !hasFailed {
            let limit = min(limitPages, share.ceilingPages.load(ordering: .relaxed)) - reservedPages
            if resident + pages <= limit {
                if resident + pages <= share.granted { return true }
                if cache.reserve(resident + pages - share.granted, for: share) { return true }
            }
            if !evictOldest(batchPages, mayForce: mayForce) { return false }
        }
        return false
    }

    /// Evicts up to `count` pages from the address space whose oldest page is the oldest. Answers whether any page
    /// left.
    func evictOldest(_ count: Int, mayForce: Bool) -> Bool {
        if isAgentBusy || hasFailed { return false }
        for space in spaces { space?.isStuck = false }
        while let space = oldest() {
            let before = resident
            evict(space, count)
            if resident < before { return true }
            space.isStuck = true
        }
        return mayForce && evictByForce(count)
    }

    /// The address space to evict from next: one that has an agent, and the oldest page.
    private func oldest() -> AddressSpace? {
        var best: AddressSpace?
        var bestAge: UInt64 = 0
        for space in spaces {
            guard let space, space.agent != nil, space.resident > 0, !space.isInjecting, !space.isStuck else {
                continue
            }
            let now = arrivals >> 6
            let age = (space.leavesProven ? space.proven.age(now: now) : space.probation.age(now: now)) + 1
            if age > bestAge { (best, bestAge) = (space, age) }
        }
        return best
    }

    /// Every page is in address spaces without an agent, which forked children are until their first trapped call:
    /// injects one into the largest.
    private func evictByForce(_ count: Int) -> Bool {
        var largest: AddressSpace?
        for space in spaces {
            guard let space, space.agent == nil, !space.isInjecting, space.resident > (largest?.resident ?? 0) else {
                continue
            }
            if isGone(space) { removeSpace(space) } else { largest = space }
        }
        guard let largest else { return false }
        if let index = setAside.firstIndex(where: { readIdentity($0.thread) == largest.identity }) {
            // One of its threads waits for an answer already.
            inject(setAside.remove(at: index))
        } else if !forceInjection(largest) {
            return false
        }
        let before = resident
        evict(largest, count)
        return resident < before
    }

    /// Evicts up to `count` pages of one address space, oldest first.
    func evict(_ space: AddressSpace, _ count: Int) {
        guard let agent = space.agent else { return }
        let found = pickVictims(space, min(count, batchPages))
        if found == 0 { return }
        let operations = describe(space, agent, found)
        agent.page.pointee.count = UInt32(operations.count)
        agent.page.pointee.moves = UInt32(operations.moves)
        agent.page.pointee.command = LEGO_AGENT_EVICT.rawValue
        if !command(space, agent) {
            followForks()
            for index in 0..<found { keep(space, victims[index]) }
            // An agent that died at work may have done any part of it. Pages that it moved and did not deliver are
            // lost.
            if operations.moves > 0 && agent.hasBegun && !isGone(space) {
                fail(.internalError("the program's agent died while pages were moved: was it killed by the program?"))
            }
            return
        }
        settle(space, agent, operations.count, found)
        followForks()
    }

    /// Takes up to `count` resident, evictable pages from the queues into `victims`, ascending.
    private func pickVictims(_ space: AddressSpace, _ count: Int) -> Int {
        let first = space.leavesProven
        let found = first ? pick(&space.proven, space, count) : pick(&space.probation, space, count)
        if found > 0 { return found }
        return first ? pick(&space.probation, space, count) : pick(&space.proven, space, count)
    }

    private func pick(_ queue: inout EvictionQueue, _ space: AddressSpace, _ count: Int) -> Int {
        var found = 0
        var tries = queue.count
        while found < count, tries > 0, let page = queue.pop() {
            tries -= 1
            guard let entry = space.table.find(page), queue.belongs(entry.pointee) else { continue }
            if entry.pointee.isPinned {
                queue.push(page, stamp: arrivals >> 6, table: &space.table)
                continue
            }
            // Insertion keeps them sorted and finds second entries of a page.
            var place = found
            while place > 0, victims[place - 1] > page { place -= 1 }
            if place > 0, victims[place - 1] == page { continue }
            var index = found
            while index > place {
                victims[index] = victims[index - 1]
                index -= 1
            }
            victims[place] = page
            found += 1
        }
        return found
    }

    /// Writes the victims into the agent's list: contiguous pages of one kind become one operation.
    private func describe(_ space: AddressSpace, _ agent: Agent, _ found: Int) -> (count: Int, moves: Int) {
        let operations = agent.operations
        var count = 0
        var moves = 0
        var previous = UInt64.max
        var previousKind: UInt32 = 0
        for index in 0..<found {
            let page = victims[index]
            let entry = space.table.entry(page)
            victimEntries[index] = entry.pointee
            let kind = entry.pointee.isDirty ? LEGO_AGENT_MOVE.rawValue : LEGO_AGENT_DROP.rawValue
            if kind == previousKind && page == previous + 1 {
                operations[count - 1].pages += 1
            } else {
                operations[count] = lego_agent_operation(
                    address: Page.address(page), pages: 1, slot: UInt32(index), kind: kind, done: 0, error: 0, failed: 0
                )
                count += 1
                if kind == LEGO_AGENT_MOVE.rawValue { moves += 1 }
            }
            previous = page
            previousKind = kind
        }
        return (count, moves)
    }

    /// Draws the consequences of what the agent did. The list was written by `describe`; only its results are read, and
    /// they are bounded here.
    private func settle(_ space: AddressSpace, _ agent: Agent, _ count: Int, _ total: Int) {
        let operations = agent.operations
        var moved = 0
        var stubborn = 0
        var operation = 0
        var start = 0
        // What was asked is known from `victims` and `victimEntries`, whose order is that of the operations.
        while start < total && operation < count {
            let isMove = victimEntries[start].isDirty
            var length = 1
            while start + length < total, victims[start + length] == victims[start] + UInt64(length),
                victimEntries[start + length].isDirty == isMove
            { length += 1 }
            let result = operations[operation]
            for index in 0..<length {
                let page = victims[start + index]
                let entry = space.table.entry(page)
                if !isMove {
                    if result.failed >> UInt64(index) & 1 != 0 { keep(space, page) } else { left(space, entry) }
                } else if index < Int(result.done) {
                    let source = agent.buffer + (start + index) * Int(Page.bytes)
                    if !store.assign(page, entry) { return checkStore() }
                    if !store.store(source, entry.pointee) {
                        memcpy(store.writeBuffer + moved * Int(Page.bytes), source, Int(Page.bytes))
                        victimEntries[moved] = entry.pointee
                        moved += 1
                    }
                    left(space, entry)
                } else if index == Int(result.done) && result.error == -Int64(ENOENT) {
                    // Dropped in a way that is not trapped.
                    if entry.pointee.isStored { store.release(entry) }
                    left(space, entry)
                } else if result.error == -Int64(EINVAL) || entry.pointee.isShared {
                    // Memory that is not writable, or a page that a forked process shares.
                    victims[stubborn] = page
                    stubborn += 1
                } else {
                    // Pinned for DMA, where alone the device can reach it, or busy for a moment.
                    keep(space, page)
                }
            }
            start += length
            operation += 1
        }
        if moved > 0 && !store.write(victimEntries, count: moved) { return checkStore() }
        if stubborn > 0 { copyOut(space, agent, stubborn) }
        counters.setResident(resident)
    }

    /// A page has left local memory.
    @inline(__always)
    private func left(_ space: AddressSpace, _ entry: PageTable.EntryPointer) {
        if entry.pointee.isProven { space.residentProven -= 1 }
        entry.pointee.clear(
            PageEntry.resident | PageEntry.dirty | PageEntry.shared | PageEntry.proven | PageEntry.followed)
        departures &+= 1
        entry.pointee.departure = max(1, departures >> 6 & 0xffff)
        space.resident -= 1
        resident -= 1
        ProgramCounters.add(counters.evictedPages)
    }

    /// A page cannot leave now: it is tried again when it has become the oldest once more.
    private func keep(_ space: AddressSpace, _ page: UInt64) {
        if space.table.entry(page).pointee.isProven {
            space.proven.push(page, stamp: arrivals >> 6, table: &space.table)
        } else {
            space.probation.push(page, stamp: arrivals >> 6, table: &space.table)
        }
    }

    /// Whether a page that comes now had left not long ago.
    @inline(__always)
    func isRefault(_ entry: PageEntry) -> Bool {
        entry.departure != 0 && (departures >> 6 &- entry.departure) & 0xffff <= refaultWindow
    }

    /// The way out for pages that the kernel does not move: those that a fork shares, and those in read-only or
    /// inaccessible memory. They are write-protected, read through /proc/PID/mem, stored, and dropped; whoever writes
    /// meanwhile waits for this thread and finds the page gone.
    private func copyOut(_ space: AddressSpace, _ agent: Agent, _ count: Int) {
        var stored = 0
        for index in 0..<count {
            let page = victims[index]
            let address = Page.address(page)
            let protected = lego_uffd_write_protect(space.userfault.raw, address, Page.bytes, 1)
            if protected < 0 {
                keep(space, page)
                continue
            }
            let buffer = store.writeBuffer + stored * Int(Page.bytes)
            if pread(agent.programMemory.raw, buffer, Int(Page.bytes), off_t(truncatingIfNeeded: address))
                != Int(Page.bytes)
            {
                _ = lego_uffd_write_protect(space.userfault.raw, address, Page.bytes, 0)
                keep(space, page)
                continue
            }
            let entry = space.table.entry(page)
            if !store.assign(page, entry) { return checkStore() }
            entry.pointee.clear(PageEntry.dirty)
            victimEntries[stored] = entry.pointee
            victims[stored] = page
            stored += 1
        }
        if stored == 0 { return }
        if !store.write(victimEntries, count: stored) { return checkStore() }
        dropCopied(space, agent, stored)
    }

    private func dropCopied(_ space: AddressSpace, _ agent: Agent, _ count: Int) {
        for index in 0..<count {
            agent.operations[index] = lego_agent_operation(
                address: Page.address(victims[index]), pages: 1, slot: 0, kind: LEGO_AGENT_DROP.rawValue, done: 0,
                error: 0,
                failed: 0)
        }
        agent.page.pointee.count = UInt32(count)
        agent.page.pointee.moves = 0
        agent.page.pointee.command = LEGO_AGENT_EVICT.rawValue
        if !command(space, agent) { return }
        for index in 0..<count {
            let page = victims[index]
            // Locked memory stays, clean and write-protected.
            if agent.operations[index].failed & 1 != 0 {
                keep(space, page)
            } else {
                left(space, space.table.entry(page))
            }
        }
    }

    // MARK: Asking an agent

    /// How long one command may take.
    private static let patience: Duration = .seconds(20)

    /// Has the agent carry out what its page says; answers whether it did. Events of the address space are read
    /// meanwhile, because the agent may wait for one to be read; faults are kept.
    func command(_ space: AddressSpace, _ agent: Agent, expectsEvents: Bool = false) -> Bool {
        isAgentBusy = true
        defer { isAgentBusy = false }
        let spins = bindAgent(agent)
        let start = spins > 0 ? monotonicNanoseconds() : 0
        agent.post()
        var slice: Int64 = expectsEvents ? 20_000 : 500_000
        let deadline = Deadline.after(Self.patience)
        while !agent.waitFinished(nanoseconds: slice, spins: spins) {
            serveEventsOnly(space)
            if !agent.isAlive { break }
            if deadline.hasPassed {
                logger.error("agent does not answer", metadata: ["program": "\(program)", "agent": "\(agent.process)"])
                agent.kill()
                break
            }
            if slice < 5_000_000 { slice *= 2 }
        }
        if expectsEvents { serveEventsOnly(space) }
        if agent.isFinished {
            if spins > 0 { notePolled(monotonicNanoseconds() &- start) }
            return true
        }
        try? epoll.remove(agent.descriptor.raw)
        space.agent = nil
        return false
    }

    /// One system call in the program's address space. -ESRCH when the agent is gone.
    func agentCall(
        _ space: AddressSpace, _ number: UInt32, _ a: UInt64 = 0, _ b: UInt64 = 0, _ c: UInt64 = 0, _ d: UInt64 = 0,
        _ e: UInt64 = 0, _ f: UInt64 = 0, expectsEvents: Bool = false
    ) -> Int64 {
        guard let agent = space.agent else { return -Int64(ESRCH) }
        let page = agent.page
        page.pointee.command = LEGO_AGENT_CALL.rawValue
        page.pointee.number = Int64(number)
        page.pointee.arguments = (
            Int64(bitPattern: a), Int64(bitPattern: b), Int64(bitPattern: c), Int64(bitPattern: d),
            Int64(bitPattern: e),
            Int64(bitPattern: f)
        )
        page.pointee.result = -Int64(ESRCH)
        let result = command(space, agent, expectsEvents: expectsEvents) ? page.pointee.result : -Int64(ESRCH)
        followForks()
        return result
    }
}
