import Wire

/// The programs that run, as far as the manager knows. Ended ones are in the store only. Not safe to share: its owner
/// holds it behind a lock.
struct RunningPrograms {
    struct Entry {
        var record: ProgramRecord
        /// Memory components that were chosen for its vRegions, in order.
        var placements: [NodeID] = []
        /// Whether the processor has acknowledged it in the life of this manager process.
        var isConfirmed = false
        /// Monotonic nanoseconds from which on silence about an unconfirmed program is looked into.
        var askAfter: UInt64 = .max
        /// Monotonic nanoseconds from which on its end is to be recorded (again) if its processor is lost.
        var endAfter: UInt64 = 0
    }

    private var entries: [ProgramID: Entry] = [:]

    subscript(_ id: ProgramID) -> Entry? {
        get { entries[id] }
        set { entries[id] = newValue }
    }

    var all: [Entry] { entries.values.sorted { $0.record.id.rawValue < $1.record.id.rawValue } }

    func on(processor: NodeID) -> [ProgramID] {
        entries.values.filter { $0.record.processorNode == processor }.map(\.record.id)
    }

    /// How many programs run on each processor.
    var countByProcessor: [NodeID: Int] {
        entries.values.reduce(into: [:]) { $0[$1.record.processorNode, default: 0] += 1 }
    }

    /// How many programs have a vRegion on each memory component.
    var countByMemory: [NodeID: Int] {
        entries.values.reduce(into: [:]) { counts, entry in
            for node in Set(entry.placements) { counts[node, default: 0] += 1 }
        }
    }

    /// Takes a program's latest counters.
    mutating func update(_ id: ProgramID, _ statistics: ProgramStatistics) {
        entries[id]?.record.statistics = statistics
        entries[id]?.isConfirmed = true
    }

    /// Asks after unconfirmed programs of a processor that has come back, once it had time to report them.
    mutating func processorReturned(_ node: NodeID, askAfter: UInt64) {
        for (id, entry) in entries where entry.record.processorNode == node && !entry.isConfirmed {
            entries[id]?.askAfter = askAfter
        }
    }

    /// Programs whose processor does not live; each is answered once per `again` nanoseconds, until it has been taken
    /// out.
    mutating func orphans(now: UInt64, again: UInt64, isAlive: (NodeID) -> Bool) -> [ProgramRecord] {
        var orphans: [ProgramRecord] = []
        for (id, entry) in entries where entry.endAfter <= now && !isAlive(entry.record.processorNode) {
            orphans.append(entry.record)
            entries[id]?.endAfter = now &+ again
        }
        return orphans
    }

    /// Unconfirmed programs to ask for now; each is answered once per `again` nanoseconds.
    mutating func due(now: UInt64, again: UInt64) -> [ProgramRecord] {
        var due: [ProgramRecord] = []
        for (id, entry) in entries where !entry.isConfirmed && entry.askAfter <= now {
            due.append(entry.record)
            entries[id]?.askAfter = now &+ again
        }
        return due
    }
}
