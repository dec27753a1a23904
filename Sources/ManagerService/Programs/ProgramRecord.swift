import ManagementAPI
import Wire

/// A submitted program as the store keeps it.
struct ProgramRecord: Sendable, Equatable {
    var id: ProgramID
    var name: String
    /// argv as submitted.
    var command: [String]
    /// Whom it runs as.
    var user: String
    var userID: UInt32
    var processor: String
    var processorNode: NodeID
    var isDetached: Bool
    /// 16 bytes: what a client must show to attach.
    var token: [UInt8]
    var end: ProgramEnd?
    /// As last reported; of an ended program its last.
    var statistics = ProgramStatistics()

    var status: ProgramStatus {
        ProgramStatus(
            id: id.rawValue, name: name, state: end?.state ?? .running, exitStatus: end?.exitStatus.map(Int.init),
            signal: end?.signal.map(Int.init), reason: end?.reason, processor: processor,
            memories: statistics.perMemory.map(\.memory), command: command, user: user)
    }
}

/// How a program ended. Final: the first word on it stands.
struct ProgramEnd: Sendable, Equatable {
    /// exited or lost.
    var state: ProgramStatus.State
    /// 0–255 if the first process exited.
    var exitStatus: Int32?
    /// The signal that ended the first process.
    var signal: Int32?
    /// One line; nil when it ended by itself.
    var reason: String?

    static func lost(_ reason: String) -> ProgramEnd { ProgramEnd(state: .lost, reason: reason) }

    /// nil while the program runs.
    init?(_ report: ProcessorManagerReport) {
        switch report.state {
        case .running: return nil
        case .exited: state = .exited
        case .lost: state = .lost
        }
        // A program ends by status or by signal; a lost one may have neither.
        if report.signal > 0, report.signal <= 64 {
            signal = Int32(report.signal)
        } else if (0...255).contains(report.exitStatus) {
            exitStatus = report.exitStatus
        }
        reason = report.reason.isEmpty ? nil : report.reason
    }

    init(state: ProgramStatus.State, exitStatus: Int32? = nil, signal: Int32? = nil, reason: String? = nil) {
        self.state = state
        self.exitStatus = exitStatus
        self.signal = signal
        self.reason = reason
    }
}
