import CLinux
import Glibc
import Kernel

/// madvise(2) and process_madvise(2), as far as they change what memory holds or what a fork makes of it.
extension MonitorCore {
    func advise(
        _ space: AddressSpace, _ pages: Range<UInt64>, _ start: UInt64, _ bytes: UInt64, _ advice: UInt32
    ) -> Outcome {
        if touchesAgent(start, bytes) { return .answer(-Int64(EINVAL)) }
        // What is the kernel's own is its to advise.
        if !space.regions.overlaps(pages) { return .proceed }
        return .answer(advise(space, start, bytes, advice))
    }

    private func advise(_ space: AddressSpace, _ start: UInt64, _ bytes: UInt64, _ advice: UInt32) -> Int64 {
        let pages = Page.range(start, bytes)
        let hasFile = space.regions.parts(in: pages).contains { $0.file != nil }
        switch advice {
        case Advice.remove: return -Int64(hasFile ? EACCES : EINVAL)
        case Advice.free where hasFile, Advice.wipeOnFork where hasFile: return -Int64(EINVAL)
        // Merged and huge pages could not be moved out again; both are only hints. Whether the kernel takes the first
        // one, its opposite says.
        case Advice.mergeable: return agentCall(space, SystemCall.madvise, start, bytes, UInt64(Advice.unmergeable))
        case Advice.collapse: return -Int64(EINVAL)
        default: break
        }
        awaitAhead(of: space)
        // The table knows of guards in watched memory alone.
        if advice == Advice.guardInstall { watchFiles(space, pages) }
        if advice == Advice.free {
            // It may be dropped at any time, and so at once; but the kernel says first whether it may be freed.
            let result = agentCall(space, SystemCall.madvise, start, bytes, UInt64(advice))
            if result != 0 { return result }
        }
        let effective = advice == Advice.free ? Advice.dontNeed : advice
        let result = agentCall(space, SystemCall.madvise, start, bytes, UInt64(effective))
        switch effective {
        case Advice.wipeOnFork, Advice.keepOnFork, Advice.dontFork, Advice.doFork:
            if result != 0 { return result }
            for var part in space.regions.parts(in: pages) {
                switch effective {
                case Advice.dontFork, Advice.doFork: part.isLeftByFork = effective == Advice.dontFork
                default: part.isWipedOnFork = effective == Advice.wipeOnFork
                }
                space.regions.insert(part)
            }
        case Advice.guardInstall where result == 0: guardPages(space, pages)
        case Advice.guardRemove:
            // The kernel takes guards away one by one, and says nothing of how many before an error.
            if result == 0 {
                space.table.forEach(in: pages) { _, entry in entry.pointee.clear(PageEntry.guarded) }
            }
        case Advice.dontNeed where result != 0:
            // A part of the range may have been dropped before the error; what is still there stays right.
            forgetDropped(space, pages)
        default:
            if result == 0 { forgetUnpinned(space, pages) }
        }
        return result
    }

    /// process_madvise(2) with an advice that the kernel takes for the caller's own memory alone: range by range.
    func adviseVector(_ space: AddressSpace, _ notification: lego_notification) -> Outcome {
        let a = notification.arguments
        let advice = UInt32(truncatingIfNeeded: a.3)
        if a.4 != 0 || a.2 > Self.vector_max { return .proceed }
        guard isOwnProcess(space, notification, Int32(truncatingIfNeeded: a.0)) else { return .proceed }
        var total: Int64 = 0
        for index in 0..<a.2 {
            var range: (start: UInt64, bytes: UInt64) = (0, 0)
            let isRead = withUnsafeMutableBytes(of: &range) { readProgram(space, a.1 &+ 16 * index, into: $0) }
            let problem: Int64
            if !isRead {
                problem = -Int64(EFAULT)
            } else if touchesAgent(range.start, range.bytes) {
                problem = -Int64(EINVAL)
            } else if space.regions.overlaps(Page.range(range.start, range.bytes)) {
                problem = advise(space, range.start, range.bytes, advice)
            } else {
                problem = agentCall(space, SystemCall.madvise, range.start, range.bytes, UInt64(advice))
            }
            if problem != 0 { return .answer(total > 0 ? total : problem) }
            total += Int64(clamping: range.bytes)
        }
        return .answer(total)
    }
    /// UIO_MAXIOV.
    private static let vector_max: UInt64 = 1024
    /// PIDFD_SELF_THREAD and PIDFD_SELF_THREAD_GROUP.
    private static let ownHandles: ClosedRange<Int32> = -10001 ... -10000

    /// Whether a pidfd of the caller names its own process.
    private func isOwnProcess(_ space: AddressSpace, _ notification: lego_notification, _ handle: Int32) -> Bool {
        if Self.ownHandles.contains(handle) { return true }
        let process = ProcessFiles.process(ofThread: notification.thread)
        guard let descriptor = descriptor(space, notification, handle) else { return false }
        return ProcessFiles.process(behind: descriptor.raw) == process
    }

    /// The program dropped its pages. A pinned one is gone too, and comes back at once; a guard stays.
    private func forgetUnpinned(_ space: AddressSpace, _ pages: Range<UInt64>) {
        var pinned: [UInt64] = []
        var guarded: [UInt64] = []
        space.table.forEach(in: pages) { page, entry in
            if entry.pointee.isPinned { pinned.append(page) }
            if entry.pointee.isGuarded { guarded.append(page) }
        }
        forgetPages(space, pages)
        for page in guarded { space.table.entry(page).pointee.set(PageEntry.guarded) }
        for page in pinned { pin(space, Page.address(page)) }
    }

    /// The kernel has put guards in place of what was there. A page that is copied in would replace one.
    private func guardPages(_ space: AddressSpace, _ pages: Range<UInt64>) {
        forgetPages(space, pages)
        for part in space.regions.parts(in: pages) {
            for page in part.pages { space.table.entry(page).pointee.set(PageEntry.guarded) }
        }
    }

    /// A page with a guard has faulted: before the guard was there, if there is one.
    func hasGuard(_ space: AddressSpace, _ page: UInt64, _ entry: PageTable.EntryPointer) -> Bool {
        if let agent = space.agent, let map = try? PageMap(of: agent.process), map.word(of: page)?.isGuard == true {
            return true
        }
        // The kernel took it away with others, and then met an error.
        entry.pointee.clear(PageEntry.guarded)
        return false
    }

    /// After a failed MADV_DONTNEED: forgets the pages that the kernel has dropped.
    private func forgetDropped(_ space: AddressSpace, _ pages: Range<UInt64>) {
        guard let agent = space.agent, let map = try? PageMap(of: agent.process) else { return }
        var dropped: [UInt64] = []
        space.table.forEach(in: pages) { page, entry in
            if entry.pointee.isResident, let word = map.word(of: page), !word.isThere { dropped.append(page) }
        }
        for page in dropped { forgetPages(space, page..<page + 1) }
    }
}
