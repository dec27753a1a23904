import CLinux
import Kernel

extension MonitorCore {
    /// Room for the copy that a fork makes, from the call's answer to its event. A call that failed has no event, and the
    /// room is given up after a while.
    struct ForkReserve {
        var parent: UInt64
        /// Who makes the call, in the processor's pid namespace.
        var thread: Int32
        var pages: Int
        var until: Deadline
        static let patience: Duration = .milliseconds(100)
    }

    /// What is resident at a fork is resident twice afterwards: halves it before. Several processes may fork at a time.
    func makeRoomForFork(_ space: AddressSpace, thread: Int32) {
        awaitAhead()
        let limit = min(limitPages, share.ceilingPages.load(ordering: .relaxed)) - reservedPages
        if held + space.resident + space.unwatched.ofFiles > limit { watchFiles(space, 0..<Page.count_max) }
        while held + space.resident + space.unwatched.ofFiles > limit, space.resident > 0 {
            let before = space.resident
            evict(space, batchPages)
            if space.isDead || space.resident >= before { break }
        }
        let wanted = held + reservedPages + space.resident
        if wanted > share.granted { _ = cache.reserve(wanted - share.granted, for: share) }
        reservedPages += space.resident
        forkReserves.append(
            ForkReserve(
                parent: space.identity, thread: thread, pages: space.resident, until: .after(ForkReserve.patience)))
    }

    /// The fork of `parent` has been followed.
    private func endReserve(_ parent: AddressSpace) {
        guard let index = forkReserves.firstIndex(where: { $0.parent == parent.identity }) else { return }
        reservedPages -= forkReserves.remove(at: index).pages
    }

    /// Gives up what was reserved for forks that failed.
    func expireReserves() {
        while let first = forkReserves.first, first.until.hasPassed {
            if isForking(first.thread) {
                // It was not let run. Its event is still to come, and until then no page may be spliced.
                forkReserves[0].until = .after(ForkReserve.patience)
                return
            }
            reservedPages -= forkReserves.removeFirst().pages
        }
    }

    /// Whether a thread may still be in a call that forks. The file has the call's number first, or says that the thread
    /// runs.
    private func isForking(_ thread: Int32) -> Bool {
        guard let text = try? ProcessFiles.text(thread, "syscall") else { return false }
        guard let number = UInt32(text.prefix { $0.isNumber }) else { return text.hasPrefix("running") }
        return [SystemCall.clone, SystemCall.clone3, SystemCall.fork].contains(number)
    }

    /// Follows the forks whose events have been read.
    func followForks() {
        if pendingForks.isEmpty { return }
        awaitAhead()
        while !pendingForks.isEmpty {
            let (parent, descriptor) = pendingForks.removeFirst()
            forked(parent, Descriptor(taking: descriptor))
        }
    }

    /// A process has forked: the child has a copy of the parent's memory and tables. The parent waited until this event
    /// was read, the child runs from now on.
    private func forked(_ parent: AddressSpace, _ userfault: consuming Descriptor) {
        ProgramCounters.add(counters.forks)
        endReserve(parent)
        let child: AddressSpace
        do {
            child = try addSpace(userfault)
        } catch {
            return fail(.internalError("cannot follow a fork of the program: \(error)"))
        }
        child.isTakenOver = true
        child.forkedFrom = parent
        child.regions = parent.regions
        child.hasWatchableFiles = parent.hasWatchableFiles
        child.filePlace = parent.filePlace
        child.breakEnd = parent.breakEnd
        child.systemCallInstruction = parent.systemCallInstruction
        child.isNative = parent.isNative
        parent.table.forEach(in: 0..<Page.count_max) { page, entry in
            if entry.pointee.isResident { entry.pointee.set(PageEntry.shared) }
            if entry.pointee.isStored { self.store.retain(entry.pointee) }
            child.table.entry(page).pointee = entry.pointee
            child.table.entry(page).pointee.clear(PageEntry.queues | PageEntry.held)
            if entry.pointee.isResident {
                child.resident += 1
                child.probation.push(page, stamp: self.arrivals >> 6, table: &child.table)
            }
        }
        resident += child.resident
        for region in parent.regions.regions {
            if region.isWipedOnFork || region.isLeftByFork { forgetPages(child, region.pages) }
            if region.isLeftByFork { child.regions.remove(region.pages) }
        }
        countUnwatched(child)
        noteResident()
        markIdentity(child)
    }

    /// Writes an address space's identity where a fork wipes it, so that a process can be told from its parent.
    func markIdentity(_ space: AddressSpace) {
        withUnsafeTemporaryAllocation(byteCount: Int(Page.bytes), alignment: Int(Page.bytes)) { page in
            page.initializeMemory(as: UInt8.self, repeating: 0)
            page.storeBytes(of: space.identity, as: UInt64.self)
            page.storeBytes(of: nonce, toByteOffset: 8, as: UInt64.self)
            let result = lego_uffd_copy(
                space.userfault.raw, agentIdentityAddress, page.baseAddress!, Page.bytes, 0)
            if result < 0 && result != -3 {
                logger.warning(
                    "cannot mark an address space", metadata: ["error": "\(KernelError.text(Int32(-result)))"])
            }
        }
    }

    /// mremap has moved memory: entries and regions follow.
    func movePages(_ space: AddressSpace, from: UInt64, to: UInt64, bytes: UInt64) {
        let source = Page.range(from, bytes)
        let target = Page.range(to, bytes)
        if source.isEmpty || target.count != source.count { return }
        forgetPages(space, target)
        var moved: [(UInt64, PageEntry)] = []
        space.table.removeAll(in: source) { page, entry in moved.append((page, entry.pointee)) }
        for (page, entry) in moved {
            let there = target.lowerBound + (page - source.lowerBound)
            space.table.entry(there).pointee = entry
            space.table.entry(there).pointee.clear(PageEntry.queues | PageEntry.held)
            space.dequeue(entry)
            if entry.isResident { space.probation.push(there, stamp: arrivals >> 6, table: &space.table) }
        }
        let parts = space.regions.parts(in: source)
        space.regions.remove(source)
        for var part in parts {
            let start = target.lowerBound + (part.pages.lowerBound - source.lowerBound)
            part.pages = start..<start + UInt64(part.pages.count)
            space.regions.insert(part)
        }
    }
}
