import Wire

/// Where a vRegion could live.
struct MemoryCandidate: Sendable, Equatable {
    var node: NodeID
    var name: String
    var capacityBytes: UInt64
    /// As last reported: up to a quarter of a lease old.
    var usedBytes: UInt64
    /// Running programs that have a vRegion there, whether they have used it yet or not.
    var placedPrograms: Int
    /// Its heartbeat is late. On a busy host that means little, yet others are better.
    var isLate = false

    var hasRoom: Bool { usedBytes <= capacityBytes && capacityBytes - usedBytes >= UInt64(RemoteChunk.bytes) }
}

/// Chooses a memory component for a vRegion (the global memory manager's policy, LegoOS §4.4).
enum MemoryPlacement {
    /// One that the program uses already, the latest first, so that as few components as possible can take the program
    /// down with them; else the one with the fewest programs, then the fewest used bytes, then the first by name, late
    /// ones last. Full and excluded ones never; nil when nothing is left.
    static func choose(_ candidates: [MemoryCandidate], used: [NodeID], excluded: Set<NodeID>) -> MemoryCandidate? {
        let open = candidates.filter { $0.hasRoom && !excluded.contains($0.node) }
        for node in used.reversed() {
            if let familiar = open.first(where: { $0.node == node }) { return familiar }
        }
        return open.min { left, right in
            if left.isLate != right.isLate { return right.isLate }
            if left.placedPrograms != right.placedPrograms { return left.placedPrograms < right.placedPrograms }
            if left.usedBytes != right.usedBytes { return left.usedBytes < right.usedBytes }
            return left.name.precedes(right.name)
        }
    }
}
