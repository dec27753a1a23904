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
        let now = space.isDead ? 0 : space.regions.unwatchedPages
        unwatchedPages += now - space.unwatched
        space.unwatched = now
    }

    /// Watches everything.
    func watchAll() {
        for space in spaces { if let space { watch(space, 0..<Page.count_max) } }
    }

    /// Watches the regions that overlap `pages`, whole.
    func watch(_ space: AddressSpace, _ pages: Range<UInt64>) {
        if space.unwatched == 0 { return }
        if let process = space.agent?.process ?? space.users.first?.process,
            let map = try? ProcessFiles.open(process, "pagemap")
        {
            watch(space, pages, map.raw)
        } else {
            // What is there already stays, uncounted.
            watch(space, pages, -1)
        }
        countUnwatched(space)
        noteResident()
    }

    private func watch(_ space: AddressSpace, _ pages: Range<UInt64>, _ map: Int32) {
        for var region in space.regions.regions where region.isUnwatched && region.pages.overlaps(pages) {
            // From here on nothing comes to be there without a fault, so that what is there can be counted.
            let result = lego_uffd_register(
                space.userfault.raw, Page.address(region.pages.lowerBound), UInt64(region.pages.count) * Page.bytes)
            if result == -ESRCH { return }
            region.isUnwatched = false
            space.regions.insert(region)
            if result == 0 {
                takeStock(space, region.pages, map)
            } else {
                logger.warning("cannot watch memory", metadata: ["error": "\(KernelError.text(-result))"])
            }
        }
    }

    /// Enters those of `pages` into the tables that are there, by their pagemap(5).
    private func takeStock(_ space: AddressSpace, _ pages: Range<UInt64>, _ map: Int32) {
        withUnsafeTemporaryAllocation(of: UInt64.self, capacity: Self.stockPages) { words in
            var first = pages.lowerBound
            while first < pages.upperBound {
                let wanted = min(words.count, Int(pages.upperBound - first))
                let count = pread(map, words.baseAddress!, wanted * 8, off_t(first * 8)) / 8
                if count <= 0 { return }
                for index in 0..<count where words[index] >> 62 != 0 {
                    let page = first + UInt64(index)
                    // A guard is there as well, and no memory.
                    if space.table.find(page)?.pointee.isGuarded == true { continue }
                    arrive(space, page, writable: true)
                    ProgramCounters.add(counters.zeroFills)
                    // The page of zeros is everybody's: a write replaces it.
                    if words[index] & Self.isExclusive == 0 { space.table.entry(page).pointee.set(PageEntry.shared) }
                }
                first += UInt64(count)
            }
        }
    }
    private static let stockPages = 512
    /// pagemap(5): the page is mapped here alone.
    private static let isExclusive: UInt64 = 1 << 56
}
