/// What the processor knows of one page of an address space: 8 bytes, 0 for a page that was never touched.
///
/// A page is in one of these states:
/// - untouched: no flag; a fault fills it with zeros or from its file
/// - resident: mapped in the program. `dirty` when it may be written there without a fault; else write-protected, and
///   equal to what a fault would bring: its remote copy if it has one, its file, or zeros
/// - remote: not resident and `stored`: its only copy is in `slot` of `chunk`
struct PageEntry: Equatable {
    var bits: UInt64

    @inline(__always) init(bits: UInt64) { self.bits = bits }
    @inline(__always) init() { bits = 0 }

    static let resident: UInt64 = 1 << 0
    static let dirty: UInt64 = 1 << 1
    /// Never evicted: the kernel reaches it where it cannot wait for a fault.
    static let pinned: UInt64 = 1 << 2
    /// Was resident when its address space forked, so that the kernel may refuse to move it.
    static let shared: UInt64 = 1 << 3
    /// Has a place in remote memory; what is there counts unless the page is dirty.
    static let stored: UInt64 = 1 << 4
    /// Raises SIGBUS.
    static let poisoned: UInt64 = 1 << 5
    /// Used by `EvictionQueue.makeRoom` alone.
    static let marked: UInt64 = 1 << 6
    /// Resident, and in the queue of pages that came back soon after they had left.
    static let proven: UInt64 = 1 << 7
    /// The program has put a guard there (MADV_GUARD_INSTALL), which a page that is copied in would replace.
    static let guarded: UInt64 = 1 << 28
    /// Resident, and in a batch that is being evicted.
    static let leaving: UInt64 = 1 << 29
    /// As `pinned`, for as long as a thread's call on a futex may last (`MonitorCore+Futexes.swift`).
    static let held: UInt64 = 1 << 30
    /// Resident, and about to be used: passed over once when it has become the oldest.
    static let wanted: UInt64 = 1 << 31

    /// Resident, and in the queue of pages that are retained from a loop (`LoopRetention`); or gone, and was there last.
    static let retained: UInt64 = 1 << 63
    /// Which queue a resident page is in.
    static let queues = proven | retained

    @inline(__always) var isRetained: Bool { bits & Self.retained != 0 }
    @inline(__always) var isWanted: Bool { bits & Self.wanted != 0 }
    @inline(__always) var isLeaving: Bool { bits & Self.leaving != 0 }
    @inline(__always) var isResident: Bool { bits & Self.resident != 0 }
    /// Resident, write-protected, and staying.
    @inline(__always) var isCleanHere: Bool {
        bits & (Self.resident | Self.dirty | Self.leaving) == Self.resident
    }
    @inline(__always) var isDirty: Bool { bits & Self.dirty != 0 }
    @inline(__always) var isPinned: Bool { bits & Self.pinned != 0 }
    /// Not to be evicted.
    @inline(__always) var isKept: Bool { bits & (Self.pinned | Self.held) != 0 }
    @inline(__always) var isGuarded: Bool { bits & Self.guarded != 0 }
    @inline(__always) var isShared: Bool { bits & Self.shared != 0 }
    @inline(__always) var isStored: Bool { bits & Self.stored != 0 }
    @inline(__always) var isUntouched: Bool {
        bits & (Self.resident | Self.stored | Self.poisoned | Self.guarded) == 0
    }
    /// Untouched, and never was resident.
    @inline(__always) var isNew: Bool { isUntouched && departure == 0 }
    @inline(__always) var isRemote: Bool { bits & (Self.resident | Self.stored) == Self.stored }

    @inline(__always) mutating func set(_ flags: UInt64) { bits |= flags }
    @inline(__always) mutating func clear(_ flags: UInt64) { bits &= ~flags }

    /// Which page of its chunk, 0–15. Meaningful when stored.
    @inline(__always) var slot: Int { Int(bits >> 8 & 15) }
    /// The number of its chunk in the program's `ChunkTable`, below 2^31 (128 TiB). Meaningful when stored.
    @inline(__always) var chunk: UInt32 { UInt32(truncatingIfNeeded: bits >> 32) & UInt32(Int32.max) }

    /// Everything but the place: the flags, and when the page left.
    private static let kept: UInt64 = 0xffff_f0ff | retained

    @inline(__always) mutating func store(chunk: UInt32, slot: Int) {
        bits = bits & Self.kept | Self.stored | UInt64(slot) << 8 | UInt64(chunk) << 32
    }
    @inline(__always) mutating func forgetStored() { bits &= Self.kept & ~Self.stored }

    @inline(__always) var isProven: Bool { bits & Self.proven != 0 }
    /// When the page left local memory, in the program's departures, in units of 64 and modulo 2^16; 0: never.
    @inline(__always) var departure: UInt64 {
        get { bits >> 12 & 0xffff }
        set { bits = bits & ~(0xffff << 12) | (newValue & 0xffff) << 12 }
    }
}

/// Page arithmetic.
enum Page {
    static let bytes: UInt64 = 4096
    static let shift: UInt64 = 12
    /// Pages of the user half of the address space.
    static let count_max: UInt64 = 1 << 35

    @inline(__always) static func number(_ address: UInt64) -> UInt64 { address >> shift }
    @inline(__always) static func address(_ number: UInt64) -> UInt64 { number << shift }
    @inline(__always) static func roundUp(_ bytes: UInt64) -> UInt64 { (bytes &+ 4095) & ~4095 }
    /// The whole pages of [start, start + bytes), clipped to the user half; empty when it wraps.
    static func range(_ start: UInt64, _ bytes: UInt64) -> Range<UInt64> {
        let (end, overflow) = start.addingReportingOverflow(bytes)
        if overflow { return 0..<0 }
        let first = min(number(start), count_max)
        return first..<max(first, min(number(roundUp(end)), count_max))
    }
}
