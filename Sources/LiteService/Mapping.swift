import CLinux
import Lite

/// A region anywhere in the cluster: the node that manages it, and its number there.
struct RegionID: Hashable, Sendable {
    var node: UInt64
    var number: UInt64
}

/// A part of a region on one node.
struct MappedPiece {
    /// Where it begins in the region, and how long it is, in bytes.
    var start: UInt64
    var count: UInt64
    var node: UInt64
    /// Where it begins in the node's pool.
    var offset: UInt64
    /// The same on this node.
    var local: UnsafeMutableRawPointer?
    /// The node, if it is another one.
    var peer: LitePeer?
}

/// A region as this node's programs use it: one for all of them. Everything but the words is constant; `handles` and
/// `isListed` are protected by the control state's lock.
final class Mapping: @unchecked Sendable {
    let id: RegionID
    let bytes: UInt64
    let pieces: [MappedPiece]
    /// Whether every piece is on this host, so that copying does not wait.
    let isNear: Bool
    /// Programs' handles of it.
    var handles: [(session: Session, handle: UInt64)] = []
    /// Whether it is in the control state.
    var isListed = true
    private let words: UnsafeMutablePointer<UInt32>

    init(id: RegionID, bytes: UInt64, pieces: [MappedPiece]) {
        self.id = id
        self.bytes = bytes
        self.pieces = pieces
        isNear = pieces.allSatisfy { $0.peer == nil || $0.peer?.link == .sharedMemory }
        words = .allocate(capacity: 2)
        words.initialize(repeating: 0, count: 2)
    }

    deinit { words.deallocate() }

    /// Operations under way that do not hold their session's lock.
    var underWay: UInt32 { lego_atomic_load_u32(words) }
    @inline(__always)
    func begin() { _ = lego_atomic_add_u32(words, 1) }
    /// Answers whether the mapping is to be looked at, because nobody has it open any more.
    @inline(__always)
    func end() -> Bool { lego_atomic_add_u32(words, .max) == 1 && lego_atomic_load_u32(words + 1) != 0 }
    /// The last handle is closed (or, with false, there is one again).
    func setUnused(_ unused: Bool) { _ = lego_atomic_exchange_u32(words + 1, unused ? 1 : 0) }

    /// The piece that holds a byte of the region.
    func piece(at offset: UInt64) -> Int {
        var low = 0
        var high = pieces.count - 1
        while low < high {
            let middle = (low + high + 1) / 2
            if pieces[middle].start <= offset { low = middle } else { high = middle - 1 }
        }
        return low
    }
}
