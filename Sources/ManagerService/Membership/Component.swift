import Wire

/// A component as the manager knows it.
struct Component: Sendable, Equatable {
    var kind: ComponentKind
    var name: String
    var node: NodeID
    var liteAddress: String
    var attachAddress: String
    var capacityBytes: UInt64
    var usedBytes: UInt64 = 0
    var processID: UInt32
    var hostID: String
    var health: RackMember.Health
    /// Whether its Lite connection to the manager stands.
    var isConnected: Bool
    /// Monotonic nanoseconds at which it is lost unless it is heard of before.
    var leaseEnd: UInt64

    var member: RackMember {
        RackMember(kind: kind, health: health, name: name, node: node, liteAddress: liteAddress)
    }
}

extension String {
    /// Order of names for people: `memory2` before `memory10`.
    func precedes(_ other: String) -> Bool { (utf8.count, self) < (other.utf8.count, other) }
}
