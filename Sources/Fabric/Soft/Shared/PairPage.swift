import CLinux
import Glibc
import Kernel

/// The memory that the two ends of a shared-memory queue pair share: a side's words are written by that side only, but
/// for `senderWaits`. Nothing in it is trusted: an end keeps its own positions privately and checks the other's.
///
/// Layout: two sides of `sideBytes` each: words (one cache line per writer and purpose), the lengths of posted
/// receives, the slots of messages that this side sends, the ring of their bytes where those do not fit the slot.
///
/// What decides the time of a message is how often a cache line goes from one processor to the other. So a short one
/// is one line: its slot, with its bytes, and a stamp that shows the receiver that it is there; and what the peer has
/// taken and posted is looked at only when what was seen of it last is used up.
struct PairPage: @unchecked Sendable {
    /// Bytes of a side's ring; a longer message goes through it in pieces.
    static let ringBytes = 128 << 10
    static let lengthsOffset = 4096
    /// Pieces that may be under way.
    static let slots = 256
    static let slotsOffset = lengthsOffset + SoftLimits.requests_max * 4

    enum Word {
        /// UInt32: 1 once this side has disconnected.
        static let closed = 0
        /// UInt32: odd while this side's driver may touch registered memory, its own or the peer's.
        static let activity = 64
        /// UInt32: this side waits for room or for a receive; set by itself, cleared by whoever wakes it.
        static let senderWaits = 192
        /// UInt64: bytes that this side has taken out of the peer's ring.
        static let ringHead = 256
        /// UInt64: pieces that this side has taken out of the peer's slots. Written after `ringHead`.
        static let slotHead = 264
        /// UInt64: receives that this side has posted since the start.
        static let posted = 320
        /// UInt32: direct accesses of this side to the peer's regions that are under way.
        static let accesses = 384
    }

    let base: UnsafeMutableRawPointer

    static let ringOffset = slotsOffset + slots * PieceSlot.bytes
    static let sideBytes = ringOffset + ringBytes
    /// Bytes of both sides: the size of the file. Only what is touched takes memory.
    static let fileBytes = 2 * sideBytes

    @inline(__always)
    func word32(_ offset: Int) -> UnsafeMutablePointer<UInt32> {
        (base + offset).assumingMemoryBound(to: UInt32.self)
    }

    @inline(__always)
    func word64(_ offset: Int) -> UnsafeMutablePointer<UInt64> {
        (base + offset).assumingMemoryBound(to: UInt64.self)
    }

    /// Where the `number`th piece of this side goes.
    @inline(__always)
    func slot(_ number: UInt64) -> PieceSlot {
        PieceSlot(base: base + PairPage.slotsOffset + Int(number % UInt64(PairPage.slots)) &* PieceSlot.bytes)
    }
}

/// A message, or a piece of one, on its way.
struct PieceSlot {
    /// Two cache lines: the first holds all of a message of up to 48 bytes.
    static let bytes = 128
    private static let headBytes = 16
    /// Bytes of a piece that lie in the slot; those of a longer one are in the ring.
    static let inlineBytes_max = bytes - headBytes

    let base: UnsafeMutableRawPointer

    /// What is in the slot when the `number`th piece is there, written last. Another for each lap of the slots, and
    /// nothing else is ever written here: what was sent before is not taken for a piece.
    @inline(__always)
    static func stamp(_ number: UInt64) -> UInt32 {
        UInt32(truncatingIfNeeded: number / UInt64(PairPage.slots) &+ 1)
    }

    var stamp: UnsafeMutablePointer<UInt32> { base.assumingMemoryBound(to: UInt32.self) }
    var payload: UnsafeMutableRawPointer { base + Self.headBytes }

    /// Writes all but the stamp and the bytes.
    @inline(__always)
    func write(_ head: PieceHead) {
        base.storeBytes(of: head.count << 8 | head.kind, toByteOffset: 4, as: UInt32.self)
        base.storeBytes(of: head.messageCount, toByteOffset: 8, as: UInt32.self)
        base.storeBytes(of: head.immediate, toByteOffset: 12, as: UInt32.self)
    }

    /// Reads each word once.
    @inline(__always)
    func read() -> PieceHead {
        let word = lego_atomic_load_u32(base.assumingMemoryBound(to: UInt32.self) + 1)
        return PieceHead(
            kind: word & 0xff, count: word >> 8,
            messageCount: lego_atomic_load_u32(base.assumingMemoryBound(to: UInt32.self) + 2),
            immediate: lego_atomic_load_u32(base.assumingMemoryBound(to: UInt32.self) + 3))
    }
}

/// What is said of a piece.
struct PieceHead {
    enum Kind: UInt32 {
        /// A piece of a SEND.
        case send = 1
        /// The immediate of a WRITE_WITH_IMMEDIATE; `messageCount` is what it wrote.
        case immediate = 2
        /// A SEND that does not fit the receive that it met.
        case tooLong = 3
    }
    /// A `Kind`, if the peer is well.
    var kind: UInt32
    /// Bytes of the piece.
    var count: UInt32
    /// Bytes of the whole message.
    var messageCount: UInt32
    var immediate: UInt32

    /// Bytes that a piece takes in the ring: whole cache lines, or none.
    @inline(__always)
    static func footprint(_ count: Int) -> Int { count <= PieceSlot.inlineBytes_max ? 0 : (count &+ 63) & ~63 }
}
