import Kernel
import Wire

/// A region that this node manages: its programs made it.
struct OwnedRegion {
    var bytes: UInt64
    var pieces: [(node: UInt64, offset: UInt64, bytes: UInt64)]
    var name: String?
    /// The session that made it: without a name, it goes with it.
    var session: UInt64
    /// Rights by user; `everybody` is a user.
    var rights: [UInt32: UInt8]
    /// Handles by node.
    var openers: [UInt64: UInt64] = [:]

    static let everybody = UInt32.max

    func rights(of user: UInt32) -> UInt8 { (rights[user] ?? 0) | (rights[Self.everybody] ?? 0) }
}

/// Who holds a lock, or waits for it or at a barrier.
struct Waiting: Equatable {
    var node: UInt64
    var session: UInt64
    var token: UInt64
}

/// A lock of this node.
struct OwnedLock {
    var name: String
    /// Handles by node and session.
    var openers: [SessionID: Int] = [:]
    var holder: Waiting?
    var queue: [Waiting] = []
    /// The former holder ended while it held the lock, and nobody has been told yet.
    var isOrphaned = false
}

/// A session anywhere in the cluster.
struct SessionID: Hashable {
    var node: UInt64
    var session: UInt64
}

/// A barrier of this node at which somebody waits.
struct OwnedBarrier {
    var name: String
    var parties: UInt64
    var waiting: [Waiting] = []
}

/// What a name can stand for.
enum ObjectKind: UInt64 {
    case region = 1
    case lock = 2
    case barrier = 3
}

struct ObjectName: Hashable {
    var kind: ObjectKind
    var text: String
}

struct Member {
    var name: String
    var address: String
}

/// What the service knows beside its sessions' handles. Protected by the service's `control` mutex, which is held over
/// nothing that waits.
struct ControlState {
    var sessions: [UInt64: Session] = [:]
    /// The other nodes of the cluster that are connected.
    var members: [UInt64: Member] = [:]
    var regions: [UInt64: OwnedRegion] = [:]
    var locks: [UInt64: OwnedLock] = [:]
    var barriers: [UInt64: OwnedBarrier] = [:]
    /// Objects of this node by name.
    var names: [ObjectName: UInt64] = [:]
    var mappings: [RegionID: Mapping] = [:]
    /// Regions of other nodes that are being opened, and whether they changed meanwhile.
    var opening: [RegionID: (count: Int, changed: Bool)] = [:]
    /// Names that a node is making an object of. Only the arbiter's matter.
    var claims: [ObjectName: (node: UInt64, until: Deadline)] = [:]
    var arena: ExtentAllocator
    /// Memory that is taken: bytes and the node whose region it is part of, by offset.
    var extents: [UInt64: (bytes: UInt64, node: UInt64)] = [:]
    /// Unnamed regions by the session that made them.
    var unnamed: [UInt64: Set<UInt64>] = [:]
    /// The next number of a session, a region, a lock or a barrier: random at first, so that those of one life of the
    /// daemon are not taken for those of the next.
    private var number = UInt64.random(in: 1...UInt64.max / 2)

    init(arena: ExtentAllocator) { self.arena = arena }

    mutating func nextNumber() -> UInt64 {
        number += 1
        return number
    }
}
