import Glibc
import Kernel

/// Prefetch by pointers: see `PointerTrail`. A scanned page costs a read through /proc/PID/mem and some 512 compares, a
/// pointer that may be followed a look into the page table.
extension MonitorCore {
    /// Pointers that a page of a stream must have to be worth more scans.
    private static let pointers_min = 4
    /// Pages sampled of a window while following does not pay.
    private static let samples_max = 4

    /// A window of a stream has been brought.
    func followWindow(_ space: AddressSpace, _ first: UInt64, _ count: Int, isDown: Bool) {
        if space.isDead || !space.trail.wantsWindow() { return }
        follow(space, PointerTrail.Cursor(window: first, count, isDown: isDown), isNew: true)
    }

    /// Scans on, and brings what is pointed to, up to a batch of pages.
    func follow(_ space: AddressSpace, _ start: PointerTrail.Cursor, isNew: Bool = false) {
        guard let agent = space.agent, let bounds = space.regions.bounds else { return }
        let isFetching = space.trail.ghosts.pays
        let most = isFetching ? followPages : Self.samples_max
        var cursor = start
        var found = 0
        var pointers = 0
        var last = UInt64.max
        var pages = 0
        while cursor.pages > 0 {
            let before = pointers
            pages += 1
            let address = off_t(truncatingIfNeeded: Page.address(cursor.page))
            if pread(agent.programMemory.raw, scanned, Int(Page.bytes), address) == Int(Page.bytes) {
                while cursor.hasWord {
                    let page = Page.number(scanned[cursor.word])
                    cursor.nextWord()
                    if page == last || !bounds.contains(page) { continue }
                    pointers += 1
                    // What lies one behind the other is a stream of its own, and comes with that in larger windows.
                    let isNext = page == last &+ 1 || page &+ 1 == last
                    last = page
                    guard !isNext, let entry = space.table.find(page), isAbsent(entry, isFetching) else { continue }
                    // Above all it is no trigger: it comes with the others, and would never fault.
                    if isFetching && isFollowed(page, found) { continue }
                    if found == most {
                        if isFetching { space.trail.resume(cursor, at: page) }
                        return bringFollowed(space, isFetching ? found : 0)
                    }
                    if !isFetching {
                        space.trail.ghosts.sample(page)
                    } else if space.trail.ghosts.samples(page) {
                        continue
                    }
                    followed[found] = page
                    found += 1
                }
            }
            // Where the first page points nowhere, or one page says all, the rest is not looked at.
            if isNew && cursor.page == start.page && pointers < Self.pointers_min || !isFetching { break }
            cursor.nextPage()
            // Behind a window there may be pages that are still here: no fault of theirs would say that the stream is there.
            if cursor.pages == 0, pages < StreamDetector.window_max, pointers - before >= Self.pointers_min,
                cursor.page < Page.count_max, let entry = space.table.find(cursor.page), entry.pointee.isResident
            {
                cursor.pages = 1
            }
        }
        bringFollowed(space, isFetching ? found : 0)
    }

    /// Whether a page that is about to be used can be brought. One that is here would often have left by then.
    @inline(__always)
    private func isAbsent(_ entry: PageTable.EntryPointer, _ isFetching: Bool) -> Bool {
        if isFetching && entry.pointee.isResident { entry.pointee.set(PageEntry.wanted) }
        return entry.pointee.isRemote
    }

    /// Whether a page is among those that were found.
    @inline(__always)
    private func isFollowed(_ page: UInt64, _ found: Int) -> Bool {
        for index in 0..<found where followed[index] == page { return true }
        return false
    }

    /// Brings single pages that nobody waits for yet.
    private func bringFollowed(_ space: AddressSpace, _ count: Int, isAlone: Bool = false) {
        ProgramCounters.add(counters.followedPages, count)
        if count == 0 || !makeRoom(count) || space.isDead { return }
        var absent = 0
        for index in 0..<count {
            let page = followed[index]
            guard let entry = space.table.find(page), entry.pointee.isRemote else { continue }
            guard let lent = store.beginRead(entry.pointee, count: 1) else {
                (followed[absent], followedEntries[absent]) = (page, entry.pointee)
                absent += 1
                continue
            }
            mapFollowed(space, page, lent.place, isAlone)
            store.endRead(lent)
            if space.isDead { return }
        }
        if absent > 0 {
            guard store.gather(followedEntries, count: absent) else { return checkStore() }
            for index in 0..<absent {
                mapFollowed(space, followed[index], store.readBuffer + index * Int(Page.bytes), isAlone)
            }
        }
        noteResident()
    }

    /// Maps one page that nobody waits for yet.
    private func mapFollowed(
        _ space: AddressSpace, _ page: UInt64, _ source: UnsafeMutableRawPointer, _ isAlone: Bool
    ) {
        copyAhead(space, page, 1, source, writable: space.habit.assumesWrite(page), isAlone: isAlone)
    }

    // MARK: Strides

    /// Brings what a walk at a distance of some pages comes to next.
    func stride(_ space: AddressSpace, _ page: UInt64, thread: Int32) {
        let run = space.strides.fault(page, thread: thread)
        let isFetching = space.strides.ghosts.pays || space.strides.ghosts.isYoung
        var found = 0
        for index in 0..<min(run.before + run.count, followPages) {
            let next = Int(page) + run.stride * (index < run.before ? index - run.before : index - run.before + 1)
            guard next > 0, next < Int(Page.count_max), let entry = space.table.find(UInt64(next)),
                isAbsent(entry, isFetching)
            else { continue }
            if !isFetching { return space.strides.ghosts.sample(UInt64(next)) }
            if space.strides.ghosts.samples(UInt64(next)) { continue }
            followed[found] = UInt64(next)
            found += 1
        }
        // A walk that comes back soon goes around in what is worth keeping.
        bringFollowed(space, found, isAlone: true)
    }
}
