import Glibc
import Kernel
import Lite
import ManagementAPI
import Wire

// Submission: from a checked request to a program that a processor has started. Runs on the pool.
extension RackControl {
    func submit(_ request: SubmitRequest, as submitter: Submitter, environment: [String]) throws(APIError) -> Submitted
    {
        var (processor, peer) = try chooseProcessor(excluding: [])
        var record = try admit(request, submitter, on: processor, environment)
        var excluded: Set<NodeID> = []
        var notices = [submitter.notice].compactMap(\.self)
        while true {
            let start = startMessage(record, request, submitter, environment)
            let answer = node.call(
                peer, RackFunction.startProgram, start, answer: ProcessorManagerStarted.self,
                until: .after(configuration.startDeadline))
            if answer.status.isOK {
                if let notice = answer.response?.reason, !notice.isEmpty { notices.append(notice) }
                break
            }
            excluded.insert(processor.node)
            // These have started nothing: another processor may do better.
            guard [.busy, .fenced, .noSpace].contains(answer.status),
                let other = try? chooseProcessor(excluding: excluded),
                let moved = move(record, to: other.0)
            else { throw handleFailedStart(record, peer, answer.status, answer.response) }
            (processor, peer) = other
            record = moved
        }
        state.withLock { $0.running[record.id]?.isConfirmed = true }
        events.started.increment()
        logger.info(
            "program started",
            metadata: [
                "program": "\(record.id)", "name": "\(record.name)", "processor": "\(processor.name)",
                "user": "\(record.user)",
            ])
        return Submitted(
            id: record.id.rawValue, processor: processor.name, attachment: attachment(record, processor),
            notice: notices.isEmpty ? nil : notices.joined(separator: "\n"))
    }

    /// Gives a program that has not started to another processor; nil when it has been ended meanwhile, or the store
    /// fails.
    private func move(_ record: ProgramRecord, to processor: Component) -> ProgramRecord? {
        var record = record
        record.processor = processor.name
        record.processorNode = processor.node
        guard (try? store.move(record)) == true else { return nil }
        return state.withLock { state in
            if state.running[record.id] == nil { return nil }
            state.running[record.id]?.record = record
            return record
        }
    }

    private func bestProcessor(excluding excluded: Set<NodeID>) -> Component? {
        state.withLock { state in
            let counts = state.running.countByProcessor
            let usable = state.membership.reachable(.processor).filter { !excluded.contains($0.node) }
            let candidates = usable.map {
                ProcessorCandidate(
                    node: $0.node, name: $0.name, runningPrograms: counts[$0.node] ?? 0, isLate: $0.health != .healthy)
            }
            return ProcessorPlacement.choose(candidates).flatMap { state.membership.component(of: $0.node) }
        }
    }

    private func chooseProcessor(excluding excluded: Set<NodeID>) throws(APIError) -> (Component, LitePeer) {
        guard let processor = bestProcessor(excluding: excluded) else {
            throw APIError(
                503,
                "no processor component is healthy; see 'legoctl status' and start one with "
                    + "'sudo legoctl component start processor0'", exitStatus: 125)
        }
        guard let peer = node.peer(processor.node) else {
            throw APIError(503, "\(processor.name) is not reachable at the moment; try again", exitStatus: 125)
        }
        return (processor, peer)
    }

    static func makeToken() -> [UInt8] {
        var generator = SystemRandomNumberGenerator()
        return (0..<16).map { _ in UInt8.random(in: 0 ... .max, using: &generator) }
    }

    /// Gives the program a number, on disk and in the table, before the processor hears of it.
    private func admit(
        _ request: SubmitRequest, _ submitter: Submitter, on processor: Component, _ environment: [String]
    ) throws(APIError) -> ProgramRecord {
        let draft = ProgramRecord(
            id: ProgramID(rawValue: .max), name: request.displayName, command: request.recordedArguments,
            user: submitter.account.name, userID: submitter.account.userID, processor: processor.name,
            processorNode: processor.node, isDetached: request.isDetached,
            token: Self.makeToken())
        let bytes = encodedSize(startMessage(draft, request, submitter, environment))
        if bytes > configuration.messageBytes_max {
            throw APIError(
                422,
                "arguments and environment have \(bytes) bytes together, at most "
                    + "\(configuration.messageBytes_max) are allowed; pass less, or pass it in a file",
                exitStatus: 126)
        }
        do {
            let record = try store.add(draft)
            state.withLock { $0.running[record.id] = RunningPrograms.Entry(record: record) }
            return record
        } catch {
            throw APIError(500, "\(error)", exitStatus: 125)
        }
    }

    private func startMessage(
        _ record: ProgramRecord, _ request: SubmitRequest, _ submitter: Submitter, _ environment: [String]
    ) -> ManagerProcessorStart {
        ManagerProcessorStart(
            program: record.id, name: record.name, arguments: request.arguments, environment: environment,
            workingDirectory: request.workingDirectory, user: submitter.account.userID,
            group: submitter.account.groupID,
            groups: Array(submitter.account.groups.prefix(WireLimit.groups_max)),
            excacheBytes: request.excacheBytes ?? 0, isDetached: request.isDetached, attachToken: record.token,
            mayStartElsewhere: request.mayStartElsewhere == true, terminal: request.terminal,
            memoryBytes: request.memoryBytes ?? 0,
            processors: request.processors.flatMap { ProcessorSet($0)?.words } ?? [],
            rackMemoryBytes: state.withLock { $0.membership.memory.capacity })
    }

    private func encodedSize(_ start: ManagerProcessorStart) -> Int {
        let texts = start.arguments + start.environment + [start.name, start.workingDirectory]
        // Every text with its length, the list counts and the fixed fields.
        return texts.reduce(0) { $0 + 4 + $1.utf8.count } + 4 * start.groups.count + 8 * start.processors.count + 87
    }

    /// Records a start that failed, and says why.
    private func handleFailedStart(
        _ record: ProgramRecord, _ peer: LitePeer, _ status: Status, _ answer: ProcessorManagerStarted?
    ) -> APIError {
        let error: APIError
        var end: ProgramEnd
        switch status {
        case .peerLost:
            error = APIError(
                503, "\(record.processor) was lost while it started the program; submit it again", exitStatus: 125)
            end = .lost("processor component \(record.processor) was lost")
        case .timedOut:
            error = APIError(
                504, "\(record.processor) did not start the program in time; submit it again", exitStatus: 125)
            end = .lost("\(record.processor) did not start it in time")
            // It may have started late, and then nobody would know of it.
            let kill = ManagerProcessorSignal(program: record.id, signal: UInt32(SIGKILL))
            _ = node.call(
                peer, RackFunction.signalProgram, kill, answer: Acknowledgement.self, until: .after(Self.callLimit))
        default:
            let told = answer?.reason ?? ""
            let reason = told.isEmpty ? Self.text(of: status, at: record.processor) : told
            let exit = answer.flatMap { $0.exitStatus > 0 && $0.exitStatus < 256 ? Int($0.exitStatus) : nil } ?? 125
            error = APIError(422, reason, exitStatus: exit)
            end = ProgramEnd(state: .exited, exitStatus: Int32(exit), reason: reason)
        }
        self.end([(record, end, ProgramStatistics())])
        return error
    }

    static func text(of status: Status, at name: String) -> String {
        switch status {
        case .peerLost: "\(name) was lost"
        case .timedOut: "\(name) did not answer in time; try again"
        case .busy: "\(name) is busy; try again"
        case .fenced: "\(name) is joining the rack at this moment; try again"
        case .noSpace: "\(name) has no room for the program; end others, or add a component"
        case .noFunction: "\(name) cannot do that: it runs another version"
        default:
            "\(name) refused: " + (status.errorNumber.map(KernelError.text) ?? "status \(status.rawValue)")
        }
    }

    func attachment(_ record: ProgramRecord, _ processor: Component) -> Attachment {
        attachment(token: record.token, processor)
    }

    func attachment(token: [UInt8], _ processor: Component) -> Attachment {
        let digits = token.map { byte in
            (byte < 16 ? "0" : "") + String(byte, radix: 16)
        }
        return Attachment(address: processor.attachAddress, token: digits.joined())
    }
}
