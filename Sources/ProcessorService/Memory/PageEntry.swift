/// What the processor knows of one page of an address space: 8 bytes, no pointer. The empty entry is a page that was never
/// touched (or was dropped): it reads as zero, or as its file.
///
/// Bits, from the lowest: 12 flags, 4 slot in the chunk, 32 chunk in the program's `ChunkTable`.
struct PageEntry: Equatable {
    var raw: UInt64

    static let empty = PageEntry(raw: 0)

    private static let slotShift: UInt64 = 12
    private static let chunkShift: UInt64 = 16

    @inline(__always)
    init(raw: UInt64) { self.raw = raw }

    @inline(__always)
    private func has(_ bit: UInt64) -> Bool { raw & bit != 0 }

    @inline(__always)
    private mutating func put(_ bit: UInt64, _ value: Bool) { raw = value ? raw | bit : raw & ~bit }

    var isEmpty: Bool { raw == 0 }

    /// Mapped in the address space.
    var isResident: Bool {
        get { has(1) }
        set { put(1, newValue) }
    }

    /// Mapped writable: its remote copy, if it has one, may be old.
    var isDirty: Bool {
        get { has(2) }
        set { put(2, newValue) }
    }

    /// `chunk` and `slot` name a remote copy.
    var isStored: Bool {
        get { has(4) }
        set { put(4, newValue) }
    }

    /// Stays resident: the kernel writes to it where no fault can be served.
    var isPinned: Bool {
        get { has(8) }
        set { put(8, newValue) }
    }

    /// Was resident at a fork: its frame may be shared with the other side, and cannot be moved out.
    var isForkShared: Bool {
        get { has(16) }
        set { put(16, newValue) }
    }

    /// Was brought in ahead of its use and not yet known to be used.
    var isPrefetched: Bool {
        get { has(32) }
        set { put(32, newValue) }
    }

    /// The chunk's index in the program's `ChunkTable`; meaningful while `isStored`.
    var chunk: Int { Int(truncatingIfNeeded: (raw >> Self.chunkShift) & 0xffff_ffff) }

    /// The page's place in the chunk, 0–15; meaningful while `isStored`.
    var slot: Int { Int(truncatingIfNeeded: (raw >> Self.slotShift) & 15) }

    /// Names the remote copy and sets `isStored`.
    @inline(__always)
    mutating func store(chunk: Int, slot: Int) {
        raw =
            (raw & 0xfff) | 4 | UInt64(truncatingIfNeeded: slot) << Self.slotShift
            | UInt64(truncatingIfNeeded: chunk) << Self.chunkShift
    }

    /// Forgets the remote copy; whoever calls has released it.
    @inline(__always)
    mutating func forgetStored() { raw &= 0xfff & ~4 }
}
