import CAgent
import CLinux
import Glibc
import Kernel

/// Page faults (docs/ARCHITECTURE.md, "Life of a page fault"). A fault costs a read of the userfaultfd, the copy-in, and
/// for a stored page elsewhere than on this host one READ; nothing here allocates once the tables have grown.
extension MonitorCore {
    var agentIdentityAddress: UInt64 { UInt64(LEGO_AGENT_BASE) + UInt64(LEGO_AGENT_IDENTITY_OFFSET) }

    /// Serves what an address space's userfaultfd has to say: events before faults, because a fault that came with an
    /// event can only be served after it.
    ///
    /// Reads on while there is something: a thread that shares this one's processor has often faulted again by the time
    /// that its last fault is dealt with, and a wait for it would cost a call more. At most some rounds, so that others
    /// get their turn.
    func serve(_ space: AddressSpace) {
        for _ in 0..<Self.rounds_max {
            if !serveRound(space) { return }
            // Only the loop can evict from a forked child that has no agent yet.
            if resident > limitPages { return }
        }
    }

    private static let rounds_max = 64

    /// Answers whether there was anything, and may be more.
    private func serveRound(_ space: AddressSpace) -> Bool {
        if space.isDead { return false }
        let count = Int(lego_uffd_read(space.userfault.raw, messages, Self.messages_max))
        if count <= 0 { return false }
        for index in 0..<count where messages[index].kind != LEGO_UFFD_FAULT.rawValue {
            handleEvent(space, messages[index])
        }
        for index in 0..<count where messages[index].kind == LEGO_UFFD_FAULT.rawValue {
            // A batch may be overwritten by what is read while a fault waits for an agent.
            if count == 1 {
                serveFault(space, messages[0])
            } else {
                space.deferred.append(messages[index])
            }
        }
        if count > 1 { serveDeferred(space) }
        return colocation.isActive
    }

    /// Reads what is there while something else is waited for: handles events, keeps faults for later.
    func serveEventsOnly(_ space: AddressSpace) {
        if space.isDead { return }
        while true {
            let count = Int(lego_uffd_read(space.userfault.raw, messages, Self.messages_max))
            if count <= 0 { return }
            for index in 0..<count {
                if messages[index].kind == LEGO_UFFD_FAULT.rawValue {
                    space.deferred.append(messages[index])
                } else {
                    handleEvent(space, messages[index])
                }
            }
        }
    }

    func retryDeferred() {
        for space in spaces {
            guard let space, !space.deferred.isEmpty else { continue }
            serveEventsOnly(space)
            serveDeferred(space)
        }
    }

    func serveDeferred(_ space: AddressSpace) {
        // What is deferred again, or read while one of these waits, goes to the new list.
        let waiting = space.deferred
        space.deferred.removeAll(keepingCapacity: true)
        for message in waiting {
            if space.isDead { return }
            serveFault(space, message)
        }
    }

    private func handleEvent(_ space: AddressSpace, _ message: lego_uffd_message) {
        switch message.kind {
        case LEGO_UFFD_FORK.rawValue:
            // While an agent works, the table is not what the kernel has: a page may have been moved out and still
            // count as resident. The child's table is copied when that is settled, before anything else happens.
            pendingForks.append((space, message.descriptor))
            if !isAgentBusy && !ahead.isAwaited { followForks() }
        case LEGO_UFFD_REMAP.rawValue:
            movePages(space, from: message.address, to: message.to, bytes: message.bytes)
        default: break
        }
    }

    private func serveFault(_ space: AddressSpace, _ message: lego_uffd_message) {
        let page = Page.number(message.address)
        if hasFailed || space.isDead || page >= Page.count_max { return }
        ProgramCounters.add(counters.faults)
        colocate(space, thread: message.thread)
        let entry = space.table.entry(page)
        if entry.pointee.isLeaving {
            // The agent itself may be who faults, if the kernel has dropped the page.
            space.deferred.append(message)
            awaitAhead()
            return serveDeferred(space)
        }
        if entry.pointee.isGuarded && hasGuard(space, page, entry) {
            lego_uffd_wake(space.userfault.raw, Page.address(page), Page.bytes)
        } else if message.is_write_protect != 0 {
            ProgramCounters.add(counters.firstWrites)
            space.habit.note(page, isWritten: true)
            serveFirstWrite(space, page, entry, message)
        } else if entry.pointee.isResident {
            serveLostPage(space, page, entry, message)
        } else if entry.pointee.isStored {
            serveStored(space, page, entry, message)
        } else {
            serveUntouched(space, page, entry, message)
        }
    }

    /// The first write to a page that is mapped write-protected. A stream of them makes the pages ahead writable too.
    private func serveFirstWrite(
        _ space: AddressSpace, _ page: UInt64, _ entry: PageTable.EntryPointer, _ message: lego_uffd_message
    ) {
        var first = page
        var firstEntry = entry
        var count = 1
        let prediction = space.writes.predict(page)
        if prediction.window > 1 && entry.pointee.isResident {
            if prediction.isDown {
                let room = min(prediction.window, Int(page & 511) + 1)
                while count < room, firstEntry[-1].isCleanHere {
                    firstEntry -= 1
                    count += 1
                }
                first = page - UInt64(count - 1)
            } else {
                let room = min(prediction.window, 512 - Int(page & 511))
                while count < room, entry[count].isCleanHere { count += 1 }
            }
            space.writes.expect(prediction.isDown ? first &- 1 : first + UInt64(count), prediction)
        } else {
            space.writes.restart(page)
        }
        let address = Page.address(first)
        var result = lego_uffd_write_protect(space.userfault.raw, address, UInt64(count) * Page.bytes, 0)
        if result < 0 && result != -EAGAIN && count > 1 {
            // The window crosses into another area.
            (firstEntry, count) = (entry, 1)
            result = lego_uffd_write_protect(space.userfault.raw, Page.address(page), Page.bytes, 0)
        }
        if result == -EAGAIN { return space.deferred.append(message) }
        if result == -ESRCH { return removeSpace(space) }
        for index in 0..<count where firstEntry[index].isResident {
            firstEntry[index].set(PageEntry.dirty)
        }
        if result < 0 { lego_uffd_wake(space.userfault.raw, Page.address(page), Page.bytes) }
    }

    /// Whether pages that a read brings are about to be written: a stream of first writes goes on there.
    private func writesFollow(
        _ space: AddressSpace, _ prediction: StreamDetector.Prediction, _ first: UInt64, _ count: Int
    ) -> Bool {
        let (start, next) = prediction.isDown ? (first + UInt64(count) - 1, first &- 1) : (first, first + UInt64(count))
        if prediction.window <= 1 || !space.writes.expects(start, isDown: prediction.isDown) { return false }
        let taken = space.writes.predict(start)
        space.writes.expect(next, taken)
        return true
    }

    /// A fault on a page that should be there. Either another thread's fault has brought it meanwhile, or the kernel
    /// dropped it in a way that is not trapped, after which it reads as zero or as its file.
    private func serveLostPage(
        _ space: AddressSpace, _ page: UInt64, _ entry: PageTable.EntryPointer, _ message: lego_uffd_message
    ) {
        let address = Page.address(page)
        let result = lego_uffd_copy(space.userfault.raw, address, zeros, Page.bytes, 0)
        if result == -EAGAIN { return space.deferred.append(message) }
        if result == Int64(Page.bytes) {
            if entry.pointee.isStored { store.release(entry) }
            entry.pointee.set(PageEntry.dirty)
        } else {
            lego_uffd_wake(space.userfault.raw, address, Page.bytes)
        }
    }

    /// A page whose only copy is remote: one READ, of a whole window where a stream is seen.
    private func serveStored(
        _ space: AddressSpace, _ page: UInt64, _ entry: PageTable.EntryPointer, _ message: lego_uffd_message
    ) {
        let trail = space.trail.fault(page)
        let prediction = space.streams.predict(page)
        // What the thread comes to next is brought before it goes on: on the monitor's processor it does so at once, and
        // would fault on each of those pages.
        if let trail {
            follow(space, trail)
        } else if prediction.window == 1 {
            stride(space, page, thread: message.thread)
        }
        if space.isDead { return }
        // Somebody pointed to it, or its pages were moved meanwhile.
        if !entry.pointee.isRemote { return space.deferred.append(message) }
        var first = page
        var count = 1
        var firstEntry = entry
        if prediction.window > 1 {
            let window = min(prediction.window, windowPages)
            // Windows end with the table's leaf, so that entries and pages are both contiguous.
            if prediction.isDown {
                let room = min(window, Int(page & 511) + 1)
                while count < room, firstEntry[-1].isRemote, store.isSameMemory(firstEntry[-1], entry.pointee) {
                    firstEntry -= 1
                    count += 1
                }
                first = page - UInt64(count - 1)
            } else {
                let room = min(window, 512 - Int(page & 511))
                while count < room, entry[count].isRemote, store.isSameMemory(entry[count], entry.pointee) {
                    count += 1
                }
            }
            expectNext(space, prediction, first: first, count: count)
        } else {
            space.streams.restart(page)
        }
        if !makeRoom(count) && count > 1 { (first, firstEntry, count) = (page, entry, 1) }
        if space.isDead { return }
        let isOverwritten = message.is_write != 0 || writesFollow(space, prediction, first, count)
        let writable = isOverwritten || space.habit.assumesWrite(page)
        bring(space, first, firstEntry, count, message, writable: writable)
        // A window is scanned where it was brought, while the thread goes on. What is about to be overwritten points nowhere.
        if trail == nil && count >= Self.followedWindow_min && !isOverwritten {
            followWindow(space, first, count, isDown: prediction.isDown)
        }
    }
    /// Pages of a window from which on a stream's pointers are looked at.
    private static let followedWindow_min = 4

    /// Maps stored pages: from where they lie, if that is on this host, else by one READ.
    private func bring(
        _ space: AddressSpace, _ first: UInt64, _ entries: PageTable.EntryPointer, _ count: Int,
        _ message: lego_uffd_message, writable: Bool
    ) {
        let page = Page.number(message.address)
        // The run of the faulting page comes last, because it lets the thread go on, which then shall find the others.
        var own = (start: 0, length: count)
        var isOneRun = true
        var index = 0
        while index < count {
            let length = store.runLength(entries + index, count: count - index)
            let start = first + UInt64(index)
            if start <= page && page < start + UInt64(length) {
                own = (index, length)
            } else if let lent = store.beginRead(entries[index], count: length) {
                copyAhead(space, start, length, lent.place, writable: writable)
                store.endRead(lent)
            } else {
                (own, isOneRun) = ((0, count), false)
                break
            }
            index += length
        }
        let entry = entries + own.start
        let start = first + UInt64(own.start)
        if isOneRun, let lent = store.beginRead(entry.pointee, count: own.length) {
            copyIn(space, start, own.length, lent.place, message, writable: writable, isAlone: count == 1)
            store.endRead(lent)
        } else if store.read(entry, count: own.length) {
            copyIn(space, start, own.length, store.readBuffer, message, writable: writable, isAlone: count == 1)
        } else {
            checkStore()
        }
    }

    /// Maps pages that nobody waits for; those that cannot be mapped now stay where they are.
    func copyAhead(
        _ space: AddressSpace, _ first: UInt64, _ count: Int, _ source: UnsafeMutableRawPointer, writable: Bool,
        isAlone: Bool = false
    ) {
        let result = lego_uffd_copy(
            space.userfault.raw, Page.address(first), source, UInt64(count) * Page.bytes, writable ? 0 : 1)
        for index in 0..<Int(max(0, result) / Int64(Page.bytes)) {
            arrive(space, first + UInt64(index), writable: writable, isAlone: isAlone)
        }
    }

    /// Says where a stream's next fault will be: beyond what is brought now and what is there already.
    func expectNext(
        _ space: AddressSpace, _ prediction: StreamDetector.Prediction, first: UInt64, count: Int
    ) {
        var next = prediction.isDown ? first &- 1 : first + UInt64(count)
        for _ in 0..<RemoteStore.window {
            guard next < Page.count_max, let entry = space.table.find(next), entry.pointee.isResident else { break }
            next = prediction.isDown ? next &- 1 : next + 1
        }
        if next < Page.count_max { space.streams.expect(next, prediction) }
    }

    private func serveUntouched(
        _ space: AddressSpace, _ page: UInt64, _ entry: PageTable.EntryPointer, _ message: lego_uffd_message
    ) {
        guard let index = space.regions.index(of: page) else {
            // The stack below where it was last seen, or the agent's identity.
            if !space.isNative && message.address != agentIdentityAddress {
                space.regions.insert(Region(pages: page..<page + 1))
            }
            return fillZeros(space, page, entry, message, within: page..<page + 1)
        }
        let region = space.regions.regions[index]
        if region.isMappedFile {
            // From before it was mapped.
            lego_uffd_wake(space.userfault.raw, Page.address(page), Page.bytes)
            return
        }
        if let file = region.file {
            return fillFromFile(space, page, entry, message, region, file)
        }
        fillZeros(space, page, entry, message, within: region.pages)
    }

    /// Fresh anonymous memory: zeros, without network; ahead of a sequential first touch.
    private func fillZeros(
        _ space: AddressSpace, _ page: UInt64, _ entry: PageTable.EntryPointer, _ message: lego_uffd_message,
        within pages: Range<UInt64>
    ) {
        var first = page
        var count = 1
        let prediction = space.streams.predict(page)
        if prediction.window > 1 {
            let window = min(prediction.window, windowPages, Self.zeroFillPages_max)
            if prediction.isDown {
                let room = min(window, Int(page & 511) + 1, Int(page - pages.lowerBound) + 1)
                while count < room, entry[-count].isUntouched { count += 1 }
                first = page - UInt64(count - 1)
            } else {
                let room = min(window, 512 - Int(page & 511), Int(pages.upperBound - page))
                while count < room, entry[count].isUntouched { count += 1 }
            }
            expectNext(space, prediction, first: first, count: count)
        } else {
            space.streams.restart(page)
        }
        if !makeRoom(count) && count > 1 { (first, count) = (page, 1) }
        if space.isDead { return }
        ProgramCounters.add(counters.zeroFills, count)
        copyIn(space, first, count, zeros, message, writable: message.is_write != 0)
    }

    // MARK: Copy-in

    /// Maps `count` pages from `source` and lets the faulting thread go on.
    func copyIn(
        _ space: AddressSpace, _ first: UInt64, _ count: Int, _ source: UnsafeMutableRawPointer,
        _ message: lego_uffd_message, writable: Bool, isAlone: Bool = false
    ) {
        let result = lego_uffd_copy(
            space.userfault.raw, Page.address(first), source, UInt64(count) * Page.bytes, writable ? 0 : 1)
        let page = Page.number(message.address)
        let done = result > 0 ? Int(result / Int64(Page.bytes)) : 0
        for index in 0..<done { arrive(space, first + UInt64(index), writable: writable, isAlone: isAlone) }
        noteResident()
        if first + UInt64(done) > page { return }
        switch result {
        case -Int64(EAGAIN): space.deferred.append(message)
        case -Int64(ESRCH): removeSpace(space)
        default:
            if count > 1 {
                // The window met something else on its way: the faulting page alone.
                let offset = Int(page - first) * Int(Page.bytes)
                let from = source == zeros ? source : source + offset
                return copyIn(space, page, 1, from, message, writable: writable)
            }
            if result == -Int64(EEXIST) {
                // The kernel has a page there that the table does not know: whatever it is, it is the newest.
                arrive(space, page, writable: true)
                noteResident()
            }
            lego_uffd_wake(space.userfault.raw, Page.address(page), Page.bytes)
        }
    }

    /// Notes that a page is mapped.
    @inline(__always)
    func arrive(_ space: AddressSpace, _ page: UInt64, writable: Bool, isAlone: Bool = false) {
        let entry = space.table.entry(page)
        if !entry.pointee.isResident {
            space.resident += 1
            resident += 1
            arrivals &+= 1
            if !entry.pointee.isStored { charge(space) }
            space.enqueue(page, entry, isAlone: isAlone, arrivals: arrivals, departures: departures, refaultWindow)
        }
        entry.pointee.clear(PageEntry.shared | PageEntry.dirty)
        entry.pointee.set(PageEntry.resident | (writable ? PageEntry.dirty : 0))
    }

    /// Forgets pages that are not mapped any more, with their remote copies.
    func forgetPages(_ space: AddressSpace, _ pages: Range<UInt64>) {
        awaitAhead(of: space)
        var gone = 0
        var live = 0
        space.table.removeAll(in: pages) { _, entry in
            if !entry.pointee.isUntouched && !entry.pointee.isGuarded { live += 1 }
            if entry.pointee.isResident { gone += 1 }
            space.dequeue(entry.pointee)
            if entry.pointee.isStored { self.store.release(entry) }
        }
        uncharge(space, live)
        space.resident -= gone
        resident -= gone
        noteResident()
    }
}
