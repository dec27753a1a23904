import CLinux
import Glibc
import Kernel

/// The memory that the two ends of a shared-memory queue pair share: a side's words are written by that side only, but
/// for `senderWaits`. Nothing in it is trusted: an end keeps its own positions privately and checks the other's.
///
/// Layout: two sides of `sideBytes` each: words (one cache line per writer and purpose), the lengths of posted
/// receives, the ring of messages that this side sends.
struct PairPage: @unchecked Sendable {
    /// Bytes of a side's message ring; a longer message goes through it in fragments.
    static let ringBytes = 128 << 10
    static let lengthsOffset = 4096

    enum Word {
        /// UInt32: 1 once this side has disconnected.
        static let closed = 0
        /// UInt32: odd while this side's driver may touch registered memory, its own or the peer's.
        static let activity = 64
        /// UInt64: bytes that this side has put into its ring.
        static let ringTail = 128
        /// UInt32: this side waits for room or for a receive; set by itself, cleared by whoever wakes it.
        static let senderWaits = 192
        /// UInt64: bytes that this side has taken out of the peer's ring.
        static let ringHead = 256
        /// UInt64: receives that this side has posted since the start.
        static let posted = 320
        /// UInt32: direct accesses of this side to the peer's regions that are under way.
        static let accesses = 384
    }

    let base: UnsafeMutableRawPointer

    static let ringOffset = lengthsOffset + SoftLimits.requests_max * 4
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
}

/// The head of a message, or of a piece of one, in a ring. Pieces begin at multiples of 16 bytes.
struct RingRecord {
    static let size = 16
    enum Kind: UInt32 {
        /// A piece of a SEND.
        case send = 1
        /// The immediate of a WRITE_WITH_IMMEDIATE; `messageCount` is what it wrote.
        case immediate = 2
        /// A SEND that does not fit the receive that it met.
        case tooLong = 3
    }
    var kind: UInt32
    /// Bytes that follow.
    var pieceCount: UInt32
    /// Bytes of the whole message.
    var messageCount: UInt32
    var immediate: UInt32

    /// Bytes that a piece takes in the ring.
    @inline(__always)
    static func footprint(_ pieceCount: Int) -> Int { size &+ (pieceCount &+ 15) & ~15 }
}
