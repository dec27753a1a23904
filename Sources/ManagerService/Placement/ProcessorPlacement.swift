import Wire

/// Where a program could run.
struct ProcessorCandidate: Sendable, Equatable {
    var node: NodeID
    var name: String
    var runningPrograms: Int
}

/// Chooses a processor component for a new program (the global process manager's policy, LegoOS §4.5).
enum ProcessorPlacement {
    /// The processor with the fewest running programs; of equals the first by name. nil when there is none.
    static func choose(_ candidates: [ProcessorCandidate]) -> ProcessorCandidate? {
        candidates.min { left, right in
            left.runningPrograms != right.runningPrograms
                ? left.runningPrograms < right.runningPrograms : left.name.precedes(right.name)
        }
    }
}
