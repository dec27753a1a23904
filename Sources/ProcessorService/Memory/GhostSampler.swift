/// The precision of a prefetcher, without a look at accessed bits: of the pages that it would bring, one in sixteen is left
/// unfetched, or one in 64 while nearly all are used, and those that fault soon are counted. Owned by the monitor thread; no
/// allocation after `init`.
struct GhostSampler: ~Copyable {
    private static let ghostBits: UInt64 = 10
    /// Faults after which an unfetched page has not been used soon.
    private static let age_max: UInt64 = 4096
    /// Fetching pays when this share of what it would bring is used, in per cent.
    private static let precision_min = 40
    private static let precision_high = 85
    private static let tries_min = 16
    private static let tries_max = 512

    /// `page | time << 36`; 0: none.
    private let ghosts: UnsafeMutablePointer<UInt64>
    private var time: UInt64 = 0
    private var random: UInt64 = 0x9e37_79b9_7f4a_7c15
    private var tries = 0
    private var hits = 0

    init() {
        ghosts = .allocate(capacity: 1 << Int(Self.ghostBits))
        ghosts.initialize(repeating: 0, count: 1 << Int(Self.ghostBits))
    }

    deinit { ghosts.deallocate() }

    /// Whether too little is known yet.
    var isYoung: Bool { tries < Self.tries_min }

    /// Whether fetching is worth its cost.
    var pays: Bool { !isYoung && hits * 100 >= tries * Self.precision_min }

    /// Takes note of a fault on a remote page.
    @inline(__always)
    mutating func fault(_ page: UInt64) {
        time &+= 1
        let ghost = ghosts + PageHash.slot(page, Self.ghostBits)
        if ghost.pointee & 0xf_ffff_ffff != page || page == 0 { return }
        if (time &- ghost.pointee >> 36) & 0xfff_ffff <= Self.age_max { hits += 1 }
        ghost.pointee = 0
    }

    /// Nearly all of what it would bring is used.
    private var isPrecise: Bool { !isYoung && hits * 100 >= tries * Self.precision_high }

    /// Whether to leave a page unfetched, to see whether it is used.
    @inline(__always)
    mutating func samples(_ page: UInt64) -> Bool {
        random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        if random >> (isPrecise ? 58 : 60) != 0 { return false }
        sample(page)
        return true
    }

    /// Watches for a page that is left unfetched.
    mutating func sample(_ page: UInt64) {
        ghosts[PageHash.slot(page, Self.ghostBits)] = page & 0xf_ffff_ffff | (time & 0xfff_ffff) << 36
        tries += 1
        if tries >= Self.tries_max {
            tries /= 2
            hits /= 2
        }
    }
}

/// Fibonacci hashing of page numbers for the direct-mapped tables of the prefetchers.
enum PageHash {
    /// A slot in a table of `1 << bits`.
    @inline(__always)
    static func slot(_ page: UInt64, _ bits: UInt64) -> Int { Int((page &* 0x9e37_79b9_7f4a_7c15) >> (64 - bits)) }
}
