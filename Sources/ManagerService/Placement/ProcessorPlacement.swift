import Wire

/// Where a program could run.
struct ProcessorCandidate: Sendable, Equatable {
    var node: NodeID
    var name: String
    var runningPrograms: Int
    /// Its heartbeat is late. On a busy host that means little, yet others are better.
    var isLate = false
}

/// Chooses a processor component for a new program (the global process manager's policy, LegoOS §4.5).
enum ProcessorPlacement {
    /// The processor with the fewest running programs, of equals the first by name; late ones only where all are. nil
    /// when there is none.
    static func choose(_ candidates: [ProcessorCandidate]) -> ProcessorCandidate? {
        candidates.min { left, right in
            if left.isLate != right.isLate { return right.isLate }
            return left.runningPrograms != right.runningPrograms
                ? left.runningPrograms < right.runningPrograms : left.name.precedes(right.name)
        }
    }
}
