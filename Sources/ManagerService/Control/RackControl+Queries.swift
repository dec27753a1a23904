import Kernel
import Lite
import ManagementAPI
import Wire

// What users ask about and do to what runs. All of it blocks (store, calls), and runs on the pool.
extension RackControl {
    /// Programs listed at most.
    static let listed_max = 1000

    func record(_ id: UInt64) throws(APIError) -> ProgramRecord {
        if let entry = state.withLock({ $0.running[ProgramID(rawValue: id)] }) { return entry.record }
        do {
            guard let record = try store.program(ProgramID(rawValue: id)) else { throw APIError.noProgram(id) }
            return record
        } catch let error as APIError {
            throw error
        } catch {
            throw APIError(500, "\(error)")
        }
    }

    /// Running programs, or with `all` the newest ones in whatever state.
    func programs(all: Bool) throws(APIError) -> [ProgramStatus] {
        let running = state.withLock { $0.running.all.map(\.record) }
        if !all { return running.map(\.status) }
        do {
            let live = Dictionary(uniqueKeysWithValues: running.map { ($0.id, $0) })
            // What runs has its latest counters in memory only.
            return try store.programs(limit: Self.listed_max).map { record in
                (record.end == nil ? live[record.id] ?? record : record).status
            }
        } catch {
            throw APIError(500, "\(error)")
        }
    }

    /// The counters of a program: asked for now while it runs, else its last.
    func statistics(_ id: UInt64) throws(APIError) -> ProgramStats {
        var record = try record(id)
        if record.end == nil, let peer = node.peer(record.processorNode) {
            let request = ManagerProcessorStatistics(program: record.id)
            let answer = node.call(
                peer, RackFunction.programStatistics, request, answer: ProgramStatistics.self,
                until: .after(Self.callLimit))
            if answer.status.isOK, let statistics = answer.response {
                state.withLock { $0.running.update(record.id, statistics) }
                record.statistics = statistics
            } else {
                // It may have ended this moment; what was reported last is the answer then.
                record = try self.record(id)
            }
        }
        return record.stats
    }

    func signal(_ id: UInt64, _ signal: Int, caller: Caller) throws(APIError) {
        guard (1...64).contains(signal) else {
            throw APIError(422, "there is no signal \(signal); signals are 1 to 64")
        }
        let record = try record(id)
        try permit(caller, record)
        if record.end != nil { throw APIError(409, "program \(id) has ended already") }
        guard let peer = node.peer(record.processorNode) else {
            throw APIError(
                503, "\(record.processor), where program \(id) runs, is not reachable at the moment; try again")
        }
        let request = ManagerProcessorSignal(program: record.id, signal: UInt32(signal))
        let status = node.call(
            peer, RackFunction.signalProgram, request, answer: Acknowledgement.self, until: .after(Self.callLimit)
        ).status
        if status == .notFound { throw APIError(409, "program \(id) has ended already") }
        if !status.isOK { throw APIError(503, Self.text(of: status, at: record.processor)) }
    }

    /// Where the log of a detached program is to be had.
    func log(_ id: UInt64, caller: Caller) throws(APIError) -> Attachment {
        let record = try record(id)
        try permit(caller, record)
        if !record.isDetached {
            throw APIError(409, "program \(id) was not detached: its output went to the terminal that ran it")
        }
        guard let processor = state.withLock({ $0.membership.component(of: record.processorNode) }),
            processor.health != .lost
        else {
            throw APIError(410, "\(record.processor), which kept the log of program \(id), was lost or started anew")
        }
        return attachment(record, processor)
    }

    /// Where the terminal of a program is, for a user who comes back to it. Whether it has one, and nobody is at it, the
    /// processor knows.
    func streams(_ id: UInt64, caller: Caller) throws(APIError) -> Attachment {
        let record = try record(id)
        try permit(caller, record)
        if record.end != nil { throw APIError(409, "program \(id) has ended already") }
        if record.isDetached {
            throw APIError(409, "program \(id) is detached: 'legoctl logs \(id)' shows its output")
        }
        guard let processor = state.withLock({ $0.membership.component(of: record.processorNode) }),
            processor.health != .lost
        else {
            throw APIError(
                503, "\(record.processor), where program \(id) runs, is not reachable at the moment; try again")
        }
        return attachment(record, processor)
    }

    func permit(_ caller: Caller, _ record: ProgramRecord) throws(APIError) {
        if caller.mayControl(record.userID) { return }
        throw APIError(403, "program \(record.id) belongs to \(record.user); only \(record.user) and root may do that")
    }

    func status() -> RackStatus {
        let components = state.withLock { $0.membership.components }
        let own = RackStatus.Component(
            name: ComponentKind.manager.word, kind: ComponentKind.manager.word,
            health: RackMember.Health.healthy.word, capacityBytes: 0, usedBytes: 0)
        return RackStatus(
            components: [own]
                + components.map {
                    RackStatus.Component(
                        name: $0.name, kind: $0.kind.word, health: $0.health.word, capacityBytes: $0.capacityBytes,
                        usedBytes: $0.usedBytes)
                })
    }

    /// Ends a component as SIGKILL would.
    func kill(component name: String, caller: Caller) throws(APIError) {
        if !caller.isRoot { throw APIError(403, "only root may kill components; use sudo") }
        if name == ComponentKind.manager.word {
            throw APIError(409, "the manager cannot kill itself on request; send SIGKILL to its process")
        }
        guard let component = state.withLock({ $0.membership.component(named: name) }) else {
            let names = state.withLock { $0.membership.components.map(\.name) }
            throw APIError(
                404, "there is no component '\(name)'; the rack has \((["manager"] + names).joined(separator: ", "))")
        }
        if component.health == .lost {
            throw APIError(
                409, "\(name) is lost already; start it again with 'sudo legoctl component start \(name)'")
        }
        guard let peer = node.peer(component.node) else {
            throw APIError(503, "\(name) is not reachable at the moment; try again")
        }
        let status = node.call(
            peer, RackFunction.terminate, ManagerComponentTerminate(), answer: Acknowledgement.self,
            until: .after(Self.callLimit)
        ).status
        // A component that dies before it answers has done as it was told.
        if !status.isOK, status != .peerLost { throw APIError(503, Self.text(of: status, at: name)) }
        logger.warning("killed a component on request", metadata: ["name": "\(name)"])
    }
}

extension ProgramRecord {
    var stats: ProgramStats {
        ProgramStats(
            id: id.rawValue, faults: statistics.faults, zeroFills: statistics.zeroFills,
            remoteReadPages: statistics.remoteReadPages, remoteWritePages: statistics.remoteWritePages,
            evictedPages: statistics.evictedPages, residentBytes: statistics.residentBytes,
            peakResidentBytes: statistics.peakResidentBytes, remoteBytes: statistics.remoteBytes,
            peakRemoteBytes: statistics.peakRemoteBytes,
            perMemory: Dictionary(statistics.perMemory.map { ($0.memory, $0.bytes) }, uniquingKeysWith: &+))
    }
}
