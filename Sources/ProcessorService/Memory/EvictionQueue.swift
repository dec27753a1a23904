/// Resident pages of one address space in the order in which they came, first in, first out. Entries of pages that have
/// gone meanwhile are skipped when they are met. Each entry carries the program-wide time at which its page came, so
/// that the oldest of several queues can be found.
///
/// Owned by the monitor thread. Amortised O(1); grows by doubling, and only when most entries are live.
struct EvictionQueue: ~Copyable {
    /// `page << 28 | stamp`: 36 bits of page number, and the low bits of the program's time, in units of 64 pages.
    private var entries: UnsafeMutablePointer<UInt64>
    private var capacity: Int
    private var head = 0
    private(set) var count = 0

    static let stampBits: UInt64 = 28
    static let stampMask: UInt64 = 1 << stampBits - 1

    /// Which of the flags of `PageEntry.queues` the pages have that belong here; an entry of a page that is in another
    /// queue by now has gone.
    private let flag: UInt64

    init(of flag: UInt64 = 0) {
        self.flag = flag
        capacity = 1024
        entries = .allocate(capacity: capacity)
    }

    deinit { entries.deallocate() }

    @inline(__always)
    mutating func push(_ page: UInt64, stamp: UInt64, table: inout PageTable) {
        if count == capacity { makeRoom(&table) }
        entries[(head + count) & (capacity - 1)] = page << Self.stampBits | stamp & Self.stampMask
        count += 1
    }

    /// The oldest entry's page, which may have gone.
    @inline(__always)
    mutating func pop() -> UInt64? {
        if count == 0 { return nil }
        let entry = entries[head]
        head = (head + 1) & (capacity - 1)
        count -= 1
        return entry >> Self.stampBits
    }

    /// Whether a page with this entry is resident and in this queue.
    @inline(__always)
    func belongs(_ entry: PageEntry) -> Bool {
        entry.bits & (PageEntry.resident | PageEntry.queues) == PageEntry.resident | flag
    }

    /// How long ago the oldest entry came, in stamps.
    @inline(__always)
    func age(now: UInt64) -> UInt64 {
        count == 0 ? 0 : (now &- entries[head]) & Self.stampMask
    }

    /// Throws out entries of pages that are not resident, and second entries of the same page; doubles when that is not
    /// enough.
    private mutating func makeRoom(_ table: inout PageTable) {
        var kept = 0
        for index in 0..<count {
            let entry = entries[(head + index) & (capacity - 1)]
            guard let found = table.find(entry >> Self.stampBits), belongs(found.pointee),
                found.pointee.bits & PageEntry.marked == 0
            else { continue }
            found.pointee.set(PageEntry.marked)
            entries[(head + kept) & (capacity - 1)] = entry
            kept += 1
        }
        for index in 0..<kept {
            table.find(entries[(head + index) & (capacity - 1)] >> Self.stampBits)?.pointee.clear(PageEntry.marked)
        }
        count = kept
        if kept <= capacity / 2 { return }
        let larger = UnsafeMutablePointer<UInt64>.allocate(capacity: capacity * 2)
        for index in 0..<kept { larger[index] = entries[(head + index) & (capacity - 1)] }
        entries.deallocate()
        entries = larger
        capacity *= 2
        head = 0
    }
}
