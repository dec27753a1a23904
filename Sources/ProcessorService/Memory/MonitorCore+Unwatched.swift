import CLinux
import Glibc
import Kernel

/// Memory that is not watched yet: fresh anonymous memory that the kernel fills by itself, without a fault for the monitor,
/// because there is room in the ExCache for all of it. It counts as resident as a whole. When the room is needed, it is
/// registered, and what is there of it enters the tables: a program that fits into its part of the ExCache runs as fast as
/// natively, one that does not pays for a look at its pages once.
///
/// No fork ever sees any: what is there is the address space's alone, or the kernel's page of zeros.
extension MonitorCore {
    /// Pages that count against the program's limit.
    var held: Int { resident + unwatchedPages }

    func noteResident() { counters.setResident(held) }

    /// Whether `count` pages of new memory may be left unwatched; reserves the room.
    func leavesUnwatched(_ space: AddressSpace, _ count: Int) -> Bool {
        if quotaPages > 0 || space.locksFuture || space.isNative { return false }
        // A fork under way would copy what nobody watches.
        if !forkReserves.isEmpty || !pendingForks.isEmpty { return false }
        let limit = min(limitPages, share.ceilingPages.load(ordering: .relaxed)) - reservedPages
        let wanted = held + count
        if wanted + 2 * aheadPages > limit { return false }
        let more = wanted - share.granted
        return more <= 0 || cache.hasRoom(more) && cache.reserve(more, for: share)
    }

    /// The regions of an address space have changed.
    func countUnwatched(_ space: AddressSpace) {
        let now = space.isDead ? (fresh: 0, ofFiles: 0) : space.regions.unwatchedPages
        unwatchedPages += now.fresh + now.ofFiles - space.unwatched.fresh - space.unwatched.ofFiles
        space.unwatched = now
    }

    /// Watches what can be watched now. Answers whether that was anything.
    @discardableResult
    func watchAll() -> Bool {
        if unwatchedPages == 0 { return false }
        let before = unwatchedPages
        // What a fork under way copies shall be what the table says then.
        let isForking = !forkReserves.isEmpty || !pendingForks.isEmpty
        for space in spaces {
            guard let space else { continue }
            watch(space, 0..<Page.count_max)
            if !isForking { watchFiles(space, 0..<Page.count_max) }
        }
        return unwatchedPages < before
    }

    /// Watches the fresh memory that overlaps `pages`, whole regions of it.
    func watch(_ space: AddressSpace, _ pages: Range<UInt64>) {
        if space.unwatched.fresh == 0 { return }
        for var region in space.regions.regions
        where region.isUnwatched && region.file == nil && region.pages.overlaps(pages) {
            // From here on nothing comes to be there without a fault, so that what is there can be counted.
            let result = lego_uffd_register(
                space.userfault.raw, Page.address(region.pages.lowerBound), UInt64(region.pages.count) * Page.bytes)
            if result == -ESRCH { break }
            region.isUnwatched = false
            space.regions.insert(region)
            if result == 0 {
                takeStock(space, region.pages)
            } else {
                logger.warning("cannot watch memory", metadata: ["error": "\(KernelError.text(-result))"])
            }
        }
        countUnwatched(space)
        noteResident()
    }

    /// Enters those of `pages` into the tables that are there. Of a process that has ended they stay uncounted.
    private func takeStock(_ space: AddressSpace, _ pages: Range<UInt64>) {
        guard let process = space.agent?.process ?? space.users.first?.process, let map = try? PageMap(of: process)
        else { return }
        map.forEachThere(in: pages) { page, word in
            // A guard is there as well, and no memory.
            if space.table.find(page)?.pointee.isGuarded == true { return }
            arrive(space, page, writable: true)
            ProgramCounters.add(counters.zeroFills)
            // The page of zeros is everybody's: a write replaces it.
            if !word.isExclusive { space.table.entry(page).pointee.set(PageEntry.shared) }
        }
    }
}
