/// Where the pointers of one address space's sequential streams have been followed to, and whether following them pays.
///
/// A program that walks an array of pointers (sort(1) merging its lines, a B-tree's leaves, a list of objects) faults on
/// what they point to, in the order of the array and anywhere in memory. The pages of a stream are scanned for words
/// that name remote pages; some are brought, the next one is left absent on purpose: its fault says that the program has
/// come so far, and is the trigger to go on.
///
/// Owned by the monitor thread; no allocation after `init`.
struct PointerTrail: ~Copyable {
    /// What of a stream's window is still to be scanned: `pages` pages from `page` on, the first one from `word` on, all in
    /// the direction in which the stream goes.
    struct Cursor {
        var page: UInt64
        var word: Int
        var pages: Int
        var isDown: Bool

        /// A window that has just been brought.
        init(window first: UInt64, _ pages: Int, isDown: Bool) {
            page = isDown ? first + UInt64(pages) - 1 : first
            word = isDown ? 511 : 0
            self.pages = pages
            self.isDown = isDown
        }

        /// Whether the current page has words left.
        @inline(__always) var hasWord: Bool { word >= 0 && word < 512 }
        @inline(__always) mutating func nextWord() { word += isDown ? -1 : 1 }
        mutating func nextPage() {
            page = isDown ? page &- 1 : page + 1
            word = isDown ? 511 : 0
            pages -= 1
        }
    }

    /// Several walks at once set one trigger after the other: in a table without ways they would soon overwrite each other's,
    /// and a walk without a trigger has to wait for its stream's next window.
    private static let setBits: UInt64 = 5
    private static let ways = 4

    /// Pages, those of a set from the newest to the oldest; 0: none.
    private let triggers: UnsafeMutablePointer<UInt64>
    /// Where to go on at each of them.
    private let cursors: UnsafeMutablePointer<Cursor>
    /// What the pages are worth that it brings.
    var ghosts = GhostSampler()
    private var windows = 0

    init() {
        let count = Self.ways << Int(Self.setBits)
        triggers = .allocate(capacity: count)
        triggers.initialize(repeating: 0, count: count)
        cursors = .allocate(capacity: count)
        cursors.initialize(repeating: Cursor(window: 0, 1, isDown: false), count: count)
    }

    deinit {
        triggers.deallocate()
        cursors.deallocate()
    }

    /// Whether a stream's new window shall be scanned: each while that pays or is not known yet, else now and then one.
    mutating func wantsWindow() -> Bool {
        windows &+= 1
        return ghosts.pays || ghosts.isYoung || windows & 3 == 0
    }

    /// Takes note of a fault on a remote page; answers where to go on when it was a trigger.
    @inline(__always)
    mutating func fault(_ page: UInt64) -> Cursor? {
        ghosts.fault(page)
        let set = Self.ways * PageHash.slot(page, Self.setBits)
        for place in set..<set + Self.ways where triggers[place] == page && page != 0 {
            triggers[place] = 0
            return cursors[place]
        }
        return nil
    }

    /// Sets the trigger for the rest of a scan.
    mutating func resume(_ cursor: Cursor, at page: UInt64) {
        let set = Self.ways * PageHash.slot(page, Self.setBits)
        var place = set
        while place < set + Self.ways - 1, triggers[place] != 0 { place += 1 }
        while place > set {
            (triggers[place], cursors[place]) = (triggers[place - 1], cursors[place - 1])
            place -= 1
        }
        (triggers[set], cursors[set]) = (page, cursor)
    }
}
