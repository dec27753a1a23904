import Lite
import ManagementAPI
import Wire

// Processes that join a running program (`legoctl exec`). Blocks, and runs on the pool.
extension RackControl {
    func join(_ id: UInt64, _ request: JoinRequest, caller: Caller) throws(APIError) -> Attachment {
        let record = try record(id)
        try permit(caller, record)
        let hasEnded = APIError(409, "program \(id) has ended already", exitStatus: 125)
        if record.end != nil { throw hasEnded }
        let processor = state.withLock { $0.membership.component(of: record.processorNode) }
        guard let processor, let peer = node.peer(record.processorNode) else {
            throw APIError(
                503, "\(record.processor), where program \(id) runs, is not reachable at the moment; try again",
                exitStatus: 125)
        }
        let message = ManagerProcessorJoin(
            program: record.id, arguments: request.arguments, environment: request.environment,
            workingDirectory: request.workingDirectory ?? "", terminal: request.terminal,
            attachToken: Self.makeToken())
        try checkSize(message)
        let answer = node.call(
            peer, RackFunction.joinProgram, message, answer: ProcessorManagerStarted.self,
            until: .after(configuration.startDeadline))
        if answer.status.isOK { return attachment(token: message.attachToken, processor) }
        if answer.status == .notFound { throw hasEnded }
        let told = answer.response?.reason ?? ""
        let exit = answer.response.flatMap { $0.exitStatus > 0 && $0.exitStatus < 256 ? Int($0.exitStatus) : nil }
        throw APIError(
            422, told.isEmpty ? Self.text(of: answer.status, at: record.processor) : told, exitStatus: exit ?? 125)
    }

    private func checkSize(_ message: ManagerProcessorJoin) throws(APIError) {
        let texts = message.arguments + message.environment + [message.workingDirectory]
        // Every text with its length, the list counts and the fixed fields.
        let bytes = texts.reduce(0) { $0 + 4 + $1.utf8.count } + 41
        if bytes <= configuration.messageBytes_max { return }
        throw APIError(
            422,
            "arguments and environment have \(bytes) bytes together, at most \(configuration.messageBytes_max) are "
                + "allowed; pass less, or pass it in a file", exitStatus: 126)
    }
}
