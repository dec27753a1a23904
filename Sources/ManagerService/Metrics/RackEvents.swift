import CoreMetrics
import Wire

/// What happens in the rack, counted since this manager process started.
struct RackEvents: Sendable {
    static let startedName = "lego_programs_started_total"
    static let endedName = "lego_programs_ended_total"
    static let lossesName = "lego_component_losses_total"

    let counters = EventCounters()
    let started: Counter
    let exited: Counter
    let lost: Counter

    init() {
        started = Counter(label: Self.startedName, factory: counters)
        exited = Counter(label: Self.endedName, dimensions: [("state", "exited")], factory: counters)
        lost = Counter(label: Self.endedName, dimensions: [("state", "lost")], factory: counters)
        for kind in [ComponentKind.processor, .memory, .storage] { losses(kind).increment(by: Int64(0)) }
    }

    func losses(_ kind: ComponentKind) -> Counter {
        Counter(label: Self.lossesName, dimensions: [("kind", kind.word)], factory: counters)
    }
}

/// Memory counters of all programs that have ended, so that the rack's totals never go back.
struct MemoryTotals {
    private(set) var faults: UInt64 = 0
    private(set) var zeroFills: UInt64 = 0
    private(set) var remoteReadPages: UInt64 = 0
    private(set) var remoteWritePages: UInt64 = 0
    private(set) var evictedPages: UInt64 = 0

    mutating func add(_ statistics: ProgramStatistics) {
        faults &+= statistics.faults
        zeroFills &+= statistics.zeroFills
        remoteReadPages &+= statistics.remoteReadPages
        remoteWritePages &+= statistics.remoteWritePages
        evictedPages &+= statistics.evictedPages
    }
}
