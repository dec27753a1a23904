import FoundationEssentials
import Kernel

/// Why a request to the manager failed. Each text is the user's message.
public enum ManagementError: Error, Equatable, CustomStringConvertible {
    /// cannot reach the manager at ADDRESS: REASON
    case unreachable(address: String, reason: String)
    /// The manager refused; its own line.
    case refused(status: Int, failure: APIFailure)
    /// what answers at ADDRESS is no manager: REASON
    case badAnswer(address: String, reason: String)
    /// 'ADDRESS' is no address: allowed is HOST:PORT
    case badAddress(String)

    public var description: String {
        switch self {
        case .unreachable(let address, let reason): "cannot reach the manager at \(address): \(reason)"
        case .refused(_, let failure): failure.reason
        case .badAnswer(let address, let reason): "what answers at \(address) is no manager of a rack: \(reason)"
        case .badAddress(let address): "'\(address)' is no address of a rack; allowed: HOST:PORT"
        }
    }
}

/// The manager's HTTP API as functions. Each call makes a connection of its own and blocks its thread; any thread may
/// call.
public struct ManagementClient: Sendable {
    private let exchange: HTTPExchange

    /// `address` is `HOST:PORT`, as `rack up` prints it.
    public init(address: String) throws(ManagementError) {
        guard let exchange = HTTPExchange(address: address) else { throw .badAddress(address) }
        self.exchange = exchange
    }

    public var address: String { exchange.address }

    /// Starts a program; answers when the processor has accepted it or refused it.
    public func submit(_ request: SubmitRequest) throws(ManagementError) -> Submitted {
        try post("/v1/programs", request, within: .seconds(30))
    }

    /// Starts a process inside a running program; answers where its streams are.
    public func join(_ id: UInt64, _ request: JoinRequest) throws(ManagementError) -> Attachment {
        try post("/v1/programs/\(id)/join", request, within: .seconds(30))
    }

    /// The running programs, or all that the rack remembers.
    public func programs(all: Bool) throws(ManagementError) -> [ProgramStatus] {
        try get("/v1/programs" + (all ? "?all=true" : ""))
    }

    public func program(_ id: UInt64) throws(ManagementError) -> ProgramStatus { try get("/v1/programs/\(id)") }

    public func statistics(_ id: UInt64) throws(ManagementError) -> ProgramStats {
        try get("/v1/programs/\(id)/stats")
    }

    /// The program's state once it has ended, or as it is after `seconds` (at most 30).
    public func wait(_ id: UInt64, seconds: Int) throws(ManagementError) -> ProgramStatus {
        try get("/v1/programs/\(id)/wait?seconds=\(seconds)", within: .seconds(seconds + 10))
    }

    /// Where a detached program's output can be read.
    public func logs(_ id: UInt64) throws(ManagementError) -> Attachment { try get("/v1/programs/\(id)/logs") }
    public func streams(_ id: UInt64) throws(ManagementError) -> Attachment { try get("/v1/programs/\(id)/streams") }

    public func signal(_ id: UInt64, _ number: Int) throws(ManagementError) {
        _ = try checked(
            exchange.perform(
                "POST", "/v1/programs/\(id)/signal", body: encode(SignalRequest(signal: number)),
                until: .after(Self.limit)))
    }

    public func status() throws(ManagementError) -> RackStatus { try get("/v1/status", within: .seconds(5)) }

    /// Devices and links of all components.
    public func fabric() throws(ManagementError) -> FabricStatus { try get("/v1/fabric") }

    /// Lets a component measure its link to another one (root only). The names consist of letters, digits and `._-`.
    public func measureLink(from: String, to: String) throws(ManagementError) -> LinkFigures {
        try get("/v1/fabric/measure?from=\(from)&to=\(to)")
    }

    /// Sets or ends the model of the link between two components, at both ends (root only).
    public func setLinkModel(_ request: LinkModelRequest) throws(ManagementError) {
        _ = try checked(
            exchange.perform("POST", "/v1/fabric/model", body: encode(request), until: .after(Self.limit)))
    }

    /// Ends a component as SIGKILL does (root only). `name` consists of letters, digits and `._-`.
    public func killComponent(_ name: String) throws(ManagementError) {
        _ = try checked(exchange.perform("POST", "/v1/components/\(name)/kill", until: .after(.seconds(5))))
    }

    private static let limit = Duration.seconds(15)

    private func get<Answer: Decodable>(_ path: String, within limit: Duration = limit) throws(ManagementError)
        -> Answer
    {
        try decode(checked(exchange.perform("GET", path, until: .after(limit))))
    }

    private func post<Request: Encodable, Answer: Decodable>(
        _ path: String, _ request: Request, within limit: Duration = limit
    ) throws(ManagementError) -> Answer {
        try decode(checked(exchange.perform("POST", path, body: encode(request), until: .after(limit))))
    }

    private func checked(_ response: HTTPExchange.Response) throws(ManagementError) -> HTTPExchange.Response {
        if (200..<300).contains(response.status) { return response }
        let failure = try? JSONDecoder().decode(APIFailure.self, from: Data(response.body))
        throw .refused(
            status: response.status,
            failure: failure ?? APIFailure(reason: "the manager at \(address) answers with status \(response.status)"))
    }

    private func encode<Request: Encodable>(_ request: Request) throws(ManagementError) -> [UInt8] {
        do {
            return Array(try JSONEncoder().encode(request))
        } catch {
            throw .refused(status: 400, failure: APIFailure(reason: "the request cannot be written as JSON: \(error)"))
        }
    }

    private func decode<Answer: Decodable>(_ response: HTTPExchange.Response) throws(ManagementError) -> Answer {
        do {
            return try JSONDecoder().decode(Answer.self, from: Data(response.body))
        } catch {
            throw .badAnswer(address: address, reason: "its answer cannot be understood")
        }
    }
}
