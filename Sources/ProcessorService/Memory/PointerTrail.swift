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

    private struct Trigger {
        /// 0: none.
        var page: UInt64
        var cursor: Cursor
    }
    private static let triggerBits: UInt64 = 6

    private let triggers: UnsafeMutablePointer<Trigger>
    /// What the pages are worth that it brings.
    var ghosts = GhostSampler()
    private var windows = 0

    init() {
        triggers = .allocate(capacity: 1 << Int(Self.triggerBits))
        triggers.initialize(
            repeating: Trigger(page: 0, cursor: Cursor(window: 0, 1, isDown: false)), count: 1 << Int(Self.triggerBits))
    }

    deinit { triggers.deallocate() }

    /// Whether a stream's new window shall be scanned: each while that pays or is not known yet, else now and then one.
    mutating func wantsWindow() -> Bool {
        windows &+= 1
        return ghosts.pays || ghosts.isYoung || windows & 3 == 0
    }

    /// Takes note of a fault on a remote page; answers where to go on when it was a trigger.
    @inline(__always)
    mutating func fault(_ page: UInt64) -> Cursor? {
        ghosts.fault(page)
        let trigger = triggers + PageHash.slot(page, Self.triggerBits)
        if trigger.pointee.page != page || page == 0 { return nil }
        trigger.pointee.page = 0
        return trigger.pointee.cursor
    }

    /// Sets the trigger for the rest of a scan.
    mutating func resume(_ cursor: Cursor, at page: UInt64) {
        triggers[PageHash.slot(page, Self.triggerBits)] = Trigger(page: page, cursor: cursor)
    }
}
