import CAgent
import CLinux
import Glibc
import Kernel

/// Eviction (docs/ARCHITECTURE.md, "Page life"): the oldest pages of the program leave in batches, while there is still
/// room and on another processor where there is one, else when room is needed. What was never written since it came is
/// dropped; what was written is taken out by the agent and written to remote memory.
extension MonitorCore {
    /// Makes it possible to map `pages` more. Gives up when nothing can be evicted: the program then exceeds its limit
    /// rather than hang.
    ///
    /// Only the loop may force an injection for it (`mayForce`): a fault that is being served would have to be answered
    /// first.
    @discardableResult
    func makeRoom(_ pages: Int, mayForce: Bool = false) -> Bool {
        if ahead.evictor.isDone { settleAhead() }
        while !hasFailed {
            let limit = min(limitPages, share.ceilingPages.load(ordering: .relaxed)) - reservedPages
            if held + pages <= limit {
                if held + pages <= share.granted || cache.reserve(held + pages - share.granted, for: share) {
                    let tight = cache.hasRoom(aheadPages) ? limit : min(limit, share.granted)
                    if held + pages + aheadPages > tight {
                        // Else what is watched would make room for what is not.
                        if watchAll() { continue }
                        evictAhead()
                    }
                    return true
                }
            }
            if watchAll() { continue }
            if ahead.evictor.isDone {
                settleAhead()
            } else if !evictOldest(batchPages, mayForce: mayForce) {
                if !ahead.evictor.isBusy { return false }
                awaitAhead()
            }
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
    func oldest() -> AddressSpace? {
        var best: AddressSpace?
        var bestAge: UInt64 = 0
        for space in spaces {
            guard let space, space.agent != nil, space.resident > 0, !space.isInjecting, !space.isStuck else {
                continue
            }
            let now = arrivals >> 6
            let age = space.age(of: space.leavingQueue, now: now) + 1
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
        let before = resident
        if let index = setAside.firstIndex(where: { readIdentity($0.thread) == largest.identity }) {
            // One of its threads waits for an answer already.
            inject(setAside.remove(at: index))
        } else if !forceInjection(largest) {
            // It may have ended meanwhile, or given its place to a new image.
            if !largest.isDead && isGone(largest) { removeSpace(largest) }
            return resident < before
        }
        evict(largest, count)
        return resident < before
    }

    /// Evicts up to `count` pages of one address space, oldest first, and waits for it.
    func evict(_ space: AddressSpace, _ count: Int) {
        guard let agent = space.agent, pickVictims(batch, space, min(count, batchPages)) else { return }
        carryOut(batch, space, agent)
    }

    /// Carries a batch out with the agent's first thread.
    func carryOut(_ batch: EvictionBatch, _ space: AddressSpace, _ agent: Agent) {
        ProgramCounters.add(counters.batchesNeeded)
        _ = command(space, agent) { batch.post($0) }
        batch.end(agent.calls)
        settle(batch)
        followForks()
    }

    /// Takes up to `count` resident, evictable pages from the queues into the batch, and says how each shall leave.
    /// False when there is none, or no place for one.
    func pickVictims(_ batch: EvictionBatch, _ space: AddressSpace, _ count: Int) -> Bool {
        batch.clear()
        space.retention.review(
            departures: departures, resident: space.resident, retained: space.residentRetained)
        let first = space.leavingQueue
        take(batch, from: first, space, count)
        space.retention.noteBatch(of: batch.count, from: first)
        for other in AddressSpace.queues where batch.count == 0 && other != first {
            take(batch, from: other, space, count)
        }
        batch.space = space
        batch.agent = space.agent
        for index in 0..<batch.count {
            let page = batch.pages[index]
            let entry = space.table.entry(page)
            batch.ways[index] = way(entry.pointee)
            if batch.ways[index] == .drop { continue }
            if !store.assign(page, entry) {
                for left in 0..<batch.count { keep(space, batch.pages[left]) }
                batch.clear()
                checkStore()
                return false
            }
            if batch.ways[index] == .splice { store.add(entry.pointee, to: batch.writeBack) }
        }
        return batch.count > 0
    }

    private func take(_ batch: EvictionBatch, from queue: UInt64, _ space: AddressSpace, _ count: Int) {
        let found = space.pick(victims, from: queue, count, stamp: arrivals >> 6)
        for index in 0..<found { batch.insert(victims[index]) }
    }

    /// A page that a fork shares is not exclusively this address space's: a write between the two halves of a splice
    /// would go to a new page, and be lost with it. One that a device may be writing to must not be unmapped at all.
    private func way(_ entry: PageEntry) -> EvictionBatch.Way {
        if !entry.isDirty { return .drop }
        return entry.isShared || mayBePinned || !forkReserves.isEmpty ? .move : .splice
    }

    /// Draws the consequences of a batch.
    func settle(_ batch: EvictionBatch) {
        defer { batch.clear() }
        guard let space = batch.space else { return }
        for index in 0..<batch.count { space.table.entry(batch.pages[index]).pointee.clear(PageEntry.leaving) }
        if space.isDead { return }
        if batch.isTorn {
            for index in 0..<batch.count { keep(space, batch.pages[index]) }
            if isGone(space) { return }
            return fail(
                .internalError("the program's agent died while pages were moved: was it killed by the program?"))
        }
        switch batch.outcome {
        case .done: break
        case .failed(let memory, let status):
            store.transferFailed(memory, status)
            return checkStore()
        case .wrongCount:
            return fail(.internalError("pages on their way out are not what the program's agent says they are"))
        }
        ProgramCounters.add(counters.remoteWritePages, batch.spliced)
        settlePages(batch, space)
        noteResident()
    }

    private func settlePages(_ batch: EvictionBatch, _ space: AddressSpace) {
        var moved = 0
        var stubborn = 0
        for index in 0..<batch.count {
            let page = batch.pages[index]
            let entry = space.table.entry(page)
            switch batch.fates[index] {
            case .left:
                if batch.ways[index] == .drop { space.habit.note(page, isWritten: false) }
                left(space, entry)
            case .stays where batch.ways[index] == .move && entry.pointee.isShared, .refused:
                victims[stubborn] = page
                stubborn += 1
            case .stays: keep(space, page)
            case .vanished:
                if entry.pointee.isStored { store.release(entry) }
                left(space, entry)
            case .moved:
                guard let agent = batch.agent else { continue }
                let source = agent.buffer + index * Int(Page.bytes)
                if !store.store(source, entry.pointee) {
                    memcpy(store.writeBuffer + moved * Int(Page.bytes), source, Int(Page.bytes))
                    victimEntries[moved] = entry.pointee
                    moved += 1
                }
                left(space, entry)
            }
        }
        if moved > 0 && !store.write(victimEntries, count: moved) { return checkStore() }
        if stubborn > 0, let agent = batch.agent { copyOut(space, agent, stubborn) }
    }

    /// A page has left local memory.
    @inline(__always)
    private func left(_ space: AddressSpace, _ entry: PageTable.EntryPointer) {
        space.dequeue(entry.pointee)
        entry.pointee.clear(
            PageEntry.resident | PageEntry.dirty | PageEntry.shared | PageEntry.proven | PageEntry.wanted)
        departures &+= 1
        entry.pointee.departure = max(1, departures >> 6 & 0xffff)
        space.resident -= 1
        resident -= 1
        // Clean and stored nowhere: it will be made again.
        if !entry.pointee.isStored { uncharge(space, 1) }
        ProgramCounters.add(counters.evictedPages)
    }

    /// A page cannot leave now: it is tried again when it has become the oldest once more.
    private func keep(_ space: AddressSpace, _ page: UInt64) {
        space.requeue(page, space.table.entry(page).pointee, stamp: arrivals >> 6)
    }

    /// The way out for pages that the kernel does neither move nor splice: those that a fork shares, and those in
    /// read-only or inaccessible memory. They are write-protected, read through /proc/PID/mem, stored, and dropped;
    /// whoever writes meanwhile waits for this thread and finds the page gone.
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
            agent.calls.operations[index] = lego_agent_operation(
                address: Page.address(victims[index]), pages: 1, slot: 0, kind: LEGO_AGENT_DROP.rawValue, done: 0,
                error: 0,
                failed: 0)
        }
        if !command(space, agent, { $0.postEviction(count: count, moves: 0) }) { return }
        for index in 0..<count {
            let page = victims[index]
            // Locked memory stays, clean and write-protected.
            if agent.calls.operations[index].failed & 1 != 0 {
                keep(space, page)
            } else {
                left(space, space.table.entry(page))
            }
        }
    }

    // MARK: Asking an agent

    /// Has the agent's first thread carry out what `post` posts; answers whether it did. Events of the address space
    /// are read meanwhile, because the agent may wait for one to be read; faults are kept.
    func command(
        _ space: AddressSpace, _ agent: Agent, expectsEvents: Bool = false, _ post: (AgentChannel) -> Void
    ) -> Bool {
        isAgentBusy = true
        defer { isAgentBusy = false }
        let spins = bindAgent(agent)
        let start = spins > 0 ? monotonicNanoseconds() : 0
        post(agent.calls)
        let answer = agent.awaitAnswer(agent.calls, slice: expectsEvents ? 20_000 : 500_000, spins: spins) {
            serveEventsOnly(space)
            serveAgentsFaults(space, agent)
        }
        if expectsEvents { serveEventsOnly(space) }
        switch answer {
        case .given:
            if spins > 0 { notePolled(monotonicNanoseconds() &- start) }
            return true
        case .overdue:
            logger.error("agent does not answer", metadata: ["program": "\(program)", "agent": "\(agent.process)"])
        case .died: break
        }
        dropAgent(of: space)
        return false
    }

    /// One system call in the program's address space, or a command that takes a call's arguments. -ESRCH when the agent
    /// is gone.
    func agentCall(
        _ space: AddressSpace, _ number: UInt32, _ a: UInt64 = 0, _ b: UInt64 = 0, _ c: UInt64 = 0, _ d: UInt64 = 0,
        _ e: UInt64 = 0, _ f: UInt64 = 0, expectsEvents: Bool = false, as kind: lego_agent_command = LEGO_AGENT_CALL
    ) -> Int64 {
        guard let agent = space.agent else { return -Int64(ESRCH) }
        let page = agent.calls.page
        page.pointee.command = kind.rawValue
        page.pointee.number = Int64(number)
        page.pointee.arguments = (
            Int64(bitPattern: a), Int64(bitPattern: b), Int64(bitPattern: c), Int64(bitPattern: d),
            Int64(bitPattern: e),
            Int64(bitPattern: f)
        )
        page.pointee.result = -Int64(ESRCH)
        let isAnswered = command(space, agent, expectsEvents: expectsEvents) { $0.post() }
        let result = isAnswered ? page.pointee.result : -Int64(ESRCH)
        followForks()
        return result
    }
}
