import Foundation
import Glibc
import Kernel
import ManagementAPI
import Synchronization
import Wire

/// A manager and a processor that do what a test says, over real sockets: for `legoctl run` and its like.
final class FakeRack: Sendable {
    static let program: UInt64 = 3
    static let token = String(repeating: "0f", count: 16)

    private let manager: LocalServer
    private let processor: LocalServer
    private let box: SubmissionBox

    /// `attach` serves each attach connection after its greeting; `ended` is what the manager says of the program.
    init(
        ended: ProgramStatus = FakeRack.status(.exited, exitStatus: 0),
        attach: @escaping @Sendable (FakeProcessor) -> Void
    ) throws {
        processor = try LocalServer { connection in attach(FakeProcessor(connection)) }
        let attachment = Attachment(address: processor.address, token: Self.token)
        let box = SubmissionBox()
        manager = try LocalServer { connection in
            guard let request = connection.readRequest() else { return }
            if request.line.hasPrefix("POST /v1/programs ") {
                if let submitted = try? JSONDecoder().decode(SubmitRequest.self, from: Data(request.body)) {
                    box.requests.withLock { $0.append(submitted) }
                }
                connection.respond(
                    201, Self.json(Submitted(id: Self.program, processor: "processor0", attachment: attachment)))
            } else if request.line.contains("/logs") {
                connection.respond(200, Self.json(attachment))
            } else {
                connection.respond(200, Self.json(ended))
            }
        }
        self.box = box
    }

    /// What was submitted so far.
    var requests: [SubmitRequest] { box.requests.withLock { $0 } }
    var address: String { manager.address }

    func stop() {
        manager.stop()
        processor.stop()
    }

    /// Starts legoctl on this rack.
    func legoctl(_ arguments: [String]) throws -> ChildProcess {
        try ChildProcess(ChildProcess.legoctl, arguments, environment: ["LEGO_RACK": address])
    }

    static func status(
        _ state: ProgramStatus.State, exitStatus: Int? = nil, signal: Int? = nil, reason: String? = nil
    ) -> ProgramStatus {
        ProgramStatus(
            id: program, name: "sh", state: state, exitStatus: exitStatus, signal: signal, reason: reason,
            processor: "processor0", memories: [], command: ["sh"], user: "nobody")
    }

    private static func json<Value: Encodable>(_ value: Value) -> String {
        String(decoding: (try? JSONEncoder().encode(value)) ?? Data(), as: UTF8.self)
    }

    private final class SubmissionBox: Sendable {
        let requests = Mutex<[SubmitRequest]>([])
    }
}

/// The processor's side of one attach connection.
final class FakeProcessor: Sendable {
    let connection: Connection
    init(_ connection: Connection) { self.connection = connection }

    /// The next frame; nil at the end.
    func frame() -> (kind: AttachFrame?, payload: [UInt8])? {
        guard let header = connection.read(AttachFrame.headerBytes) else { return nil }
        let length = header[1...4].reversed().reduce(0) { $0 << 8 | Int($1) }
        guard length <= AttachFrame.payloadBytes_max, let payload = connection.read(length) else { return nil }
        return (AttachFrame(rawValue: header[0]), payload)
    }

    @discardableResult
    func send(_ kind: AttachFrame, _ payload: [UInt8] = []) -> Bool {
        connection.write(
            [kind.rawValue] + withUnsafeBytes(of: UInt32(payload.count).littleEndian) { Array($0) } + payload)
    }

    func send(_ kind: AttachFrame, _ text: String) { send(kind, Array(text.utf8)) }

    /// Reads the greeting and accepts it; false when it is not the right one.
    func welcome(mode: AttachMode = .streams) -> Bool {
        let expected =
            withUnsafeBytes(of: FakeRack.program.littleEndian) { Array($0) } + [UInt8](repeating: 0x0f, count: 16)
            + [mode.rawValue]
        guard let hello = frame(), hello.kind == .hello, hello.payload == expected else { return false }
        return send(.welcome)
    }

    /// Says how the program ended, and waits until legoctl has gone.
    func end(
        _ state: ProcessorManagerReport.State = .exited, status: Int32 = -1, signal: UInt32 = 0, reason: String = ""
    ) {
        var bytes = [UInt8](repeating: 0, count: 2048)
        let exit = AttachExit(state: state, exitStatus: status, signal: signal, reason: reason)
        let count = bytes.withUnsafeMutableBytes { exit.encode(into: $0) } ?? 0
        send(.standardOutput)
        send(.standardError)
        send(.exit, Array(bytes[..<count]))
        while frame() != nil {}
    }
}
