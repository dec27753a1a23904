/// Which resident page leaves next. Whether a resident page is used cannot be seen, only that it comes back. A page waits
/// in one of three queues, each first in, first out; a flag of its entry says in which.
///
/// - On probation (no flag) is what comes.
/// - What comes back by itself within `MonitorCore.refaultWindow` departures is *proven* and leaves after what is on
///   probation (the idea of 2Q, Johnson and Shasha, VLDB 1994). A scan so passes through the probation's share alone,
///   where a single queue (LegoOS's FIFO) would be emptied by it.
/// - *Retained* are pages of a loop that is larger than the room, which would all leave before they are used again
///   (`LoopRetention`).
extension AddressSpace {
    /// The share of pages on probation that is left to them: 1/20, but at most 1/5 where that is less than what streams
    /// need to bring their windows in.
    private static let probationShare = 20
    private static let probationShare_max = 5
    private static let probationPages_min = 512

    private var probationFloor: Int {
        max(resident / Self.probationShare, min(resident / Self.probationShare_max, Self.probationPages_min))
    }
    private var residentOnProbation: Int { resident - residentProven - residentRetained }

    /// The flags of the queues.
    static let queues = [0, PageEntry.proven, PageEntry.retained]

    /// The flag of the queue that the next pages leave from.
    var leavingQueue: UInt64 {
        if residentRetained > 0 && (residentRetained > retention.pages_max || retention.isTurn) {
            return PageEntry.retained
        }
        if residentProven + residentRetained == 0 || residentOnProbation > probationFloor { return 0 }
        // Of a proven page it is known that it is used, of a retained one that others of its loop are.
        return residentRetained > 0 ? PageEntry.retained : PageEntry.proven
    }

    /// Whether a stream's page that comes back is retained. Twice the floor is left to the others: while pages are on their
    /// way out there are more.
    private var retainsMore: Bool {
        residentRetained < retention.pages_max && residentOnProbation > 2 * probationFloor
    }

    /// Decides when a page that has come shall leave. `arrivals` and `departures` are the program's so far.
    @inline(__always)
    func enqueue(
        _ page: UInt64, _ entry: PageTable.EntryPointer, isAlone: Bool, arrivals: UInt64, departures: UInt64,
        _ refaultWindow: UInt64
    ) {
        if entry.pointee.departure != 0 {
            let distance = (departures >> 6 &- entry.pointee.departure) & 0xffff
            retention.noteReturn(entry.pointee, distance: distance)
            entry.pointee.clear(PageEntry.retained)
            if isAlone {
                if distance <= refaultWindow {
                    entry.pointee.set(PageEntry.proven)
                    residentProven += 1
                }
            } else if retainsMore {
                // What a stream brings says nothing of the page, but of the stream.
                entry.pointee.set(PageEntry.retained)
                residentRetained += 1
            }
        }
        requeue(page, entry.pointee, stamp: arrivals >> 6)
    }

    /// Puts a resident page to the end of its queue.
    @inline(__always)
    func requeue(_ page: UInt64, _ entry: PageEntry, stamp: UInt64) {
        switch entry.bits & PageEntry.queues {
        case PageEntry.proven: proven.push(page, stamp: stamp, table: &table)
        case PageEntry.retained: retained.push(page, stamp: stamp, table: &table)
        default: probation.push(page, stamp: stamp, table: &table)
        }
    }

    /// A page is about to leave, to move, or to be forgotten. The queue skips it when it is met.
    @inline(__always)
    func dequeue(_ entry: PageEntry) {
        if !entry.isResident { return }
        if entry.isProven { residentProven -= 1 }
        if entry.isRetained { residentRetained -= 1 }
    }

    /// How long ago the oldest page of a queue came, in stamps.
    func age(of queue: UInt64, now: UInt64) -> UInt64 {
        switch queue {
        case PageEntry.proven: proven.age(now: now)
        case PageEntry.retained: retained.age(now: now)
        default: probation.age(now: now)
        }
    }

    /// Takes up to `count` pages that may leave from a queue, the oldest first, and answers how many. A page can be among
    /// them twice.
    func pick(
        _ pages: UnsafeMutablePointer<UInt64>, from queue: UInt64, _ count: Int, stamp: UInt64
    ) -> Int {
        switch queue {
        case PageEntry.proven: pick(pages, &proven, count, stamp)
        case PageEntry.retained: pick(pages, &retained, count, stamp)
        default: pick(pages, &probation, count, stamp)
        }
    }

    private func pick(
        _ pages: UnsafeMutablePointer<UInt64>, _ queue: inout EvictionQueue, _ count: Int, _ stamp: UInt64
    ) -> Int {
        var found = 0
        var tries = queue.count
        // A scan can find that nearly all that is here is about to be used; something leaves all the same.
        var passes = min(4 * count, tries / 2)
        while found < count, tries > 0, let page = queue.pop() {
            tries -= 1
            guard let entry = table.find(page), queue.belongs(entry.pointee), !entry.pointee.isLeaving else { continue }
            if entry.pointee.isKept {
                queue.push(page, stamp: stamp, table: &table)
            } else if entry.pointee.isWanted && passes > 0 {
                passes -= 1
                entry.pointee.clear(PageEntry.wanted)
                queue.push(page, stamp: stamp, table: &table)
            } else {
                pages[found] = page
                found += 1
            }
        }
        return found
    }
}
