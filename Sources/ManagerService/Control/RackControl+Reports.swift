import Glibc
import Kernel
import Lite
import Wire

// Programs: what processors report, and how they end.
extension RackControl {
    func report(_ peer: LitePeer, _ report: ProcessorManagerReport) -> (Status, Acknowledgement?) {
        let (isMember, entry) = state.withLock { state in
            (state.membership.component(of: peer.id)?.health ?? .lost != .lost, state.running[report.program])
        }
        if !isMember { return (.fenced, nil) }
        guard let entry, entry.record.processorNode == peer.id else {
            // The end of a program that is known to have ended is no news. One that still runs there was given up by
            // the rack.
            if report.state == .running { reactions.submit { self.killStray(report.program, at: peer) } }
            return (.ok, Acknowledgement())
        }
        guard let end = ProgramEnd(report) else {
            state.withLock { $0.running.update(report.program, report.statistics) }
            return (.ok, Acknowledgement())
        }
        var statistics = report.statistics
        if statistics.perMemory.isEmpty {
            // Its pages are released by now; the names of who held them are worth keeping.
            statistics.perMemory = entry.record.statistics.perMemory.map { MemoryShare(memory: $0.memory, bytes: 0) }
        }
        // Not acknowledged unless it is on disk: the processor repeats it then.
        return self.end([(entry.record, end, statistics)]) ? (.ok, Acknowledgement()) : (.busy, nil)
    }

    /// Records how programs ended and wakes who waits for them; false when the store failed, and nothing has changed
    /// then.
    @discardableResult
    func end(_ ends: [(record: ProgramRecord, end: ProgramEnd, statistics: ProgramStatistics)]) -> Bool {
        if ends.isEmpty { return true }
        let news: [ProgramID]
        do {
            news = try store.end(ends.map { ($0.record.id, $0.end, $0.statistics) })
        } catch {
            logger.error("\(error)")
            return false
        }
        state.withLock { state in
            for end in ends {
                state.running[end.record.id] = nil
                if news.contains(end.record.id) { state.endedTotals.add(end.statistics) }
            }
        }
        for (record, end, _) in ends where news.contains(record.id) {
            (end.state == .lost ? events.lost : events.exited).increment()
            logger.info(
                "program ended",
                metadata: [
                    "program": "\(record.id)", "name": "\(record.name)", "state": "\(end.state.rawValue)",
                    "reason": "\(end.reason ?? "")",
                ])
        }
        for end in ends { waiters.ended(end.record.id) }
        return true
    }

    /// Looks into a program that its processor, back after this manager's restart, has not reported.
    func askAfter(_ record: ProgramRecord) {
        guard let peer = node.peer(record.processorNode) else { return }
        let request = ManagerProcessorStatistics(program: record.id)
        let answer = node.call(
            peer, RackFunction.programStatistics, request, answer: ProgramStatistics.self,
            until: .after(Self.callLimit))
        if answer.status.isOK, let statistics = answer.response {
            state.withLock { $0.running.update(record.id, statistics) }
        } else if answer.status == .notFound {
            let reason = "the manager restarted, and \(record.processor) does not know the program any more"
            end([(record, .lost(reason), record.statistics)])
        }
    }

    /// Ends a program that runs although the rack has given it up.
    private func killStray(_ program: ProgramID, at peer: LitePeer) {
        logger.warning("a processor runs a program that was given up; killing it", metadata: ["program": "\(program)"])
        let request = ManagerProcessorSignal(program: program, signal: UInt32(SIGKILL))
        _ = node.call(
            peer, RackFunction.signalProgram, request, answer: Acknowledgement.self, until: .after(Self.callLimit))
    }
}
