import CLinux
import Kernel
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
    /// Where operations on it wait, if it is on another host.
    var lane: Lane?
}

/// A region as this node's programs use it: one for all of them. Everything but the words is constant; `handles` and
/// `isListed` are protected by the control state's lock.
final class Mapping: @unchecked Sendable {
    let id: RegionID
    let bytes: UInt64
    let pieces: [MappedPiece]
    /// Whether every piece is on this host, so that copying does not wait.
    let isNear: Bool
    /// If there is only one piece: the other node that it is on, and where.
    private let wholePeer: Held<LitePeer>?
    let wholeOffset: UInt64
    /// Programs' handles of it.
    var handles: [(session: Session, handle: UInt64)] = []
    /// Whether it is in the control state.
    var isListed = true
    private let words: UnsafeMutablePointer<UInt32>

    init(id: RegionID, bytes: UInt64, pieces: [MappedPiece]) {
        self.id = id
        self.bytes = bytes
        self.pieces = pieces
        let whole = pieces.count == 1 ? pieces[0] : nil
        wholePeer = whole?.peer.map { Held($0) }
        wholeOffset = whole?.offset ?? 0
        isNear = pieces.allSatisfy { $0.lane == nil }
        words = .allocate(capacity: 3)
        words.initialize(repeating: 0, count: 3)
    }

    deinit { words.deallocate() }

    /// Runs `body` on the other node that all of it is on, if it is.
    @inline(__always)
    func withPeer<Value>(_ otherwise: Value, _ body: (LitePeer) -> Value) -> Value {
        switch wholePeer {
        case .some(let peer): peer.lend(body)
        case .none: otherwise
        }
    }

    /// Operations under way that do not hold their session's lock.
    var underWay: UInt32 { lego_atomic_load_u32(words) }
    @inline(__always)
    func begin() { _ = lego_atomic_add_u32(words, 1) }
    /// Answers whether the mapping is to be looked at, because nobody has it open any more.
    @inline(__always)
    func end() -> Bool {
        guard lego_atomic_add_u32(words, .max) == 1 else { return false }
        if lego_atomic_load_u32(words + 2) != 0 { Futex.wake(words, count: .max) }
        return lego_atomic_load_u32(words + 1) != 0
    }
    /// Waits until no operation is under way; answers how many still are at the deadline.
    func awaitQuiet(until deadline: Deadline) -> UInt32 {
        _ = lego_atomic_add_u32(words + 2, 1)
        defer { _ = lego_atomic_add_u32(words + 2, .max) }
        while true {
            let left = lego_atomic_load_u32(words)
            if left == 0 || deadline.hasPassed { return left }
            Futex.wait(words, while: left, until: deadline)
        }
    }
    /// The last handle is closed (or, with false, there is one again).
    func setUnused(_ unused: Bool) { _ = lego_atomic_exchange_u32(words + 1, unused ? 1 : 0) }

    /// Where an operation that begins at a byte of the region waits; nil if it need not.
    func lane(at offset: UInt64) -> Lane? {
        if isNear { return nil }
        return pieces[piece(at: offset)].lane ?? pieces.lazy.compactMap(\.lane).first
    }

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
