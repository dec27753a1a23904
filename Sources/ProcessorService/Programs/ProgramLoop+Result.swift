import Glibc
import Wire

extension ProgramLoop {
    /// Signals with which the rack itself ends programs.
    private static let ours: Set<Int32> = [SIGHUP, SIGTERM, SIGPIPE, SIGKILL]

    /// What the manager is told. The rack's cause counts only when the program died by a signal that the rack may have
    /// sent: a program that was through before has ended by itself.
    static func result(
        of program: ProgramID, _ end: Sandbox.End, _ cause: EndCause?, _ statistics: ProgramStatistics
    ) -> ProcessorManagerReport {
        var result = ProcessorManagerReport(
            program: program, state: .exited, exitStatus: -1, signal: 0, reason: "", statistics: statistics)
        switch end {
        case .guardianLost, .beginning:
            result.signal = UInt32(SIGKILL)
            result.reason = "the program's guardian process was killed"
        case .program(let status) where status & 0x7f == 0:
            result.exitStatus = status >> 8 & 0xff
            return result
        case .program(let status):
            result.signal = UInt32(status & 0x7f)
        }
        guard let cause, ours.contains(Int32(result.signal)) else { return result }
        switch cause {
        case .lost, .shutdown: result.state = .lost
        case .refused: break
        }
        result.reason = cause.reason.cut(toBytes: WireLimit.reason_max)
        return result
    }

    static func exitPayload(_ result: ProcessorManagerReport) -> [UInt8] {
        AttachExit(
            state: result.state, exitStatus: result.exitStatus, signal: result.signal, reason: result.reason
        ).payload
    }

    /// What a terminal sends goes to the foreground group, as a terminal sends it.
    static func isTerminals(_ signal: Int32) -> Bool {
        [SIGINT, SIGQUIT, SIGTSTP, SIGCONT, SIGHUP, SIGWINCH].contains(signal)
    }
}

extension AttachExit {
    /// As the payload of a frame.
    var payload: [UInt8] {
        [UInt8](unsafeUninitializedCapacity: WireLimit.reason_max + 64) { buffer, count in
            count = encode(into: UnsafeMutableRawBufferPointer(buffer)) ?? 0
        }
    }
}

extension String {
    /// As many whole characters as fit: a text on the wire has a limit in bytes.
    func cut(toBytes limit: Int) -> String {
        if utf8.count <= limit { return self }
        var kept = ""
        var bytes = 0
        for character in self {
            bytes += character.utf8.count
            if bytes > limit { break }
            kept.append(character)
        }
        return kept
    }
}
