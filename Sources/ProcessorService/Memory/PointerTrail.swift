/// Where the pointers of one address space's sequential streams have been followed to, and whether following them pays.
///
/// A program that walks an array of pointers (sort(1) merging its lines, a B-tree's leaves, a list of objects) faults on
/// what they point to, in the order of the array and anywhere in memory. The pages of a stream are scanned for words
/// that name remote pages; some are brought, the next one is left absent on purpose: its fault says that the program has
/// come so far, and is the trigger to go on.
///
/// Whether pointers are used soon cannot be seen on pages that are there. Some are therefore left unfetched, and those
/// that fault soon are counted: the precision of the others, without a look at accessed bits.
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
    private static let ghostBits: UInt64 = 10
    /// Faults after which an unfetched page has not been used soon.
    private static let ghostAge_max: UInt64 = 4096
    /// Following pays when this share of what it would bring is used, in per cent.
    private static let precision_min = 40
    private static let tries_min = 16
    private static let tries_max = 512

    private let triggers: UnsafeMutablePointer<Trigger>
    /// `page | time << 36`; 0: none.
    private let ghosts: UnsafeMutablePointer<UInt64>
    private var time: UInt64 = 0
    private var random: UInt64 = 0x9e37_79b9_7f4a_7c15
    private var tries = 0
    private var hits = 0
    private var windows = 0

    init() {
        triggers = .allocate(capacity: 1 << Int(Self.triggerBits))
        triggers.initialize(
            repeating: Trigger(page: 0, cursor: Cursor(window: 0, 1, isDown: false)), count: 1 << Int(Self.triggerBits))
        ghosts = .allocate(capacity: 1 << Int(Self.ghostBits))
        ghosts.initialize(repeating: 0, count: 1 << Int(Self.ghostBits))
    }

    deinit {
        triggers.deallocate()
        ghosts.deallocate()
    }

    @inline(__always)
    private static func hash(_ page: UInt64, _ bits: UInt64) -> Int {
        Int((page &* 0x9e37_79b9_7f4a_7c15) >> (64 - bits))
    }

    /// Whether following is worth its cost.
    var pays: Bool { tries >= Self.tries_min && hits * 100 >= tries * Self.precision_min }

    /// Whether a stream's new window shall be scanned: each while that pays or is not known yet, else now and then one.
    mutating func wantsWindow() -> Bool {
        windows &+= 1
        return pays || tries < Self.tries_min || windows & 3 == 0
    }

    /// Takes note of a fault on a remote page; answers where to go on when it was a trigger.
    @inline(__always)
    mutating func fault(_ page: UInt64) -> Cursor? {
        time &+= 1
        let ghost = ghosts + Self.hash(page, Self.ghostBits)
        if ghost.pointee & 0xf_ffff_ffff == page, page != 0 {
            if (time &- ghost.pointee >> 36) & 0xfff_ffff <= Self.ghostAge_max { hits += 1 }
            ghost.pointee = 0
        }
        let trigger = triggers + Self.hash(page, Self.triggerBits)
        if trigger.pointee.page != page || page == 0 { return nil }
        trigger.pointee.page = 0
        return trigger.pointee.cursor
    }

    /// Whether to leave a page unfetched, to see whether it is used: one in sixteen.
    @inline(__always)
    mutating func samples(_ page: UInt64) -> Bool {
        if !isChosen() { return false }
        sample(page)
        return true
    }

    /// True one time in sixteen, without a pattern.
    @inline(__always)
    private mutating func isChosen() -> Bool {
        random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return random >> 60 == 0
    }

    mutating func sample(_ page: UInt64) {
        ghosts[Self.hash(page, Self.ghostBits)] = page & 0xf_ffff_ffff | (time & 0xfff_ffff) << 36
        tries += 1
        if tries >= Self.tries_max {
            tries /= 2
            hits /= 2
        }
    }

    // MARK: Writes to what was brought

    private var readOnly = 0
    private var written = 0

    /// Whether the next page shall be writable: where most are written to; one in sixteen is not even then, to see
    /// whether that still holds.
    mutating func bringsWritable() -> Bool {
        if readOnly < Self.tries_min || written * 2 < readOnly { return false }
        return !isChosen()
    }

    /// A page was brought write-protected.
    mutating func noteReadOnly() {
        readOnly += 1
        if readOnly >= Self.tries_max {
            readOnly /= 2
            written /= 2
        }
    }

    /// Such a page has been written to.
    mutating func noteWrite() { written += 1 }

    /// Sets the trigger for the rest of a scan.
    mutating func resume(_ cursor: Cursor, at page: UInt64) {
        triggers[Self.hash(page, Self.triggerBits)] = Trigger(page: page, cursor: cursor)
    }
}
