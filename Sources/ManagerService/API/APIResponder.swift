import Fabric
import Foundation
import Hummingbird
import Logging
import ManagementAPI
import NIOCore
import Wire

/// A request's connection: whose it is follows from its two ends.
struct ConnectionContext: RequestContext {
    var coreContext: CoreRequestContextStorage
    let remote: SocketEnd?
    let local: SocketEnd?

    init(source: ApplicationRequestContextSource) {
        coreContext = .init(source: source)
        remote = Self.end(source.channel.remoteAddress)
        local = Self.end(source.channel.localAddress)
    }

    private static func end(_ address: SocketAddress?) -> SocketEnd? {
        guard let text = address?.ipAddress, let port = address?.port else { return nil }
        return SocketEnd(text, port: port)
    }
}

/// Answers HTTP requests: understands them, asks the rack's control on the pool, and writes JSON. Runs on the
/// concurrency pool and never blocks it.
struct APIResponder: HTTPResponder {
    typealias Context = ConnectionContext

    /// Longest body, in bytes: arguments and environment of the largest start, with room for JSON's escapes.
    static let body_max = 8 << 20

    let control: RackControl
    let users: any UserDatabase
    let logger: Logger

    func respond(to request: Request, context: ConnectionContext) async throws -> Response {
        do {
            return try await answer(request, context)
        } catch let error as APIError {
            return Self.response(to: error)
        } catch is WorkerPool.Busy {
            return Self.response(to: APIError(503, "the manager is busy; try again", exitStatus: 125))
        } catch is NIOTooManyBytesError {
            return Self.response(
                to: APIError(
                    413, "the request has more than \(Self.body_max) bytes; pass less, or pass it in a file",
                    exitStatus: 126))
        } catch {
            logger.error("a request failed", metadata: ["path": "\(request.uri.path)", "error": "\(error)"])
            return Self.response(to: APIError(500, "the manager failed to answer; its log says why", exitStatus: 125))
        }
    }

    private func answer(_ request: Request, _ context: ConnectionContext) async throws -> Response {
        try Self.refuseBrowsers(request)
        let query = Dictionary(
            request.uri.queryParameters.map { (String($0.key), String($0.value)) },
            uniquingKeysWith: { first, _ in first })
        let route = try Route(method: request.method.rawValue, path: request.uri.path, query: query)
        let caller = try ConnectionOwner.find(remote: context.remote, local: context.local)
        let control = control
        switch route {
        case .submit:
            let wanted: SubmitRequest = try await body(of: request)
            let users = users
            let submitted = try await control.pool.run {
                try wanted.check()
                let submitter = try Submitter(caller: caller, requested: wanted.user, in: users)
                let environment = submitter.environment(wanted.environment, caller: caller)
                return try control.submit(wanted, as: submitter, environment: environment)
            }
            return try Self.json(submitted, status: .created)
        case .programs(let all): return try Self.json(await control.pool.run { try control.programs(all: all) })
        case .program(let id): return try Self.json(await control.pool.run { try control.record(id).status })
        case .statistics(let id): return try Self.json(await control.pool.run { try control.statistics(id) })
        case .wait(let id, let seconds): return try Self.json(await wait(for: id, seconds: seconds))
        case .logs(let id): return try Self.json(await control.pool.run { try control.log(id, caller: caller) })
        case .streams(let id):
            return try Self.json(await control.pool.run { try control.streams(id, caller: caller) })
        case .signal(let id):
            let wanted: SignalRequest = try await body(of: request)
            try await control.pool.run { try control.signal(id, wanted.signal, caller: caller) }
            return Response(status: .noContent)
        case .join(let id):
            let wanted: JoinRequest = try await body(of: request)
            let attachment = try await control.pool.run {
                try wanted.check()
                return try control.join(id, wanted, caller: caller)
            }
            return try Self.json(attachment, status: .created)
        case .status: return try Self.json(control.status())
        case .fabric: return try Self.json(await control.pool.run { control.fabric() })
        case .measureLink(let from, let to):
            return try Self.json(
                await control.pool.run { try control.measureLink(from: from, to: to, caller: caller) })
        case .linkModel:
            let wanted: LinkModelRequest = try await body(of: request)
            try await control.pool.run { try control.setLinkModel(wanted, caller: caller) }
            return Response(status: .noContent)
        case .metrics:
            return Response(
                status: .ok, headers: [.contentType: MetricsText.contentType],
                body: ResponseBody(byteBuffer: ByteBuffer(string: control.metrics())))
        case .killComponent(let name):
            try await control.pool.run { try control.kill(component: name, caller: caller) }
            return Response(status: .noContent)
        }
    }

    /// Waits without a thread.
    private func wait(for id: UInt64, seconds: Int) async throws -> ProgramStatus {
        let control = control
        let program = ProgramID(rawValue: id)
        let isRunning: @Sendable () -> Bool = { control.state.withLock { $0.running[program] != nil } }
        if isRunning(), await !control.waiters.wait(for: program, limit: .seconds(seconds), isRunning: isRunning) {
            throw APIError(503, "\(EndWaiters.waiters_max) clients wait for programs already; try again later")
        }
        return try await control.pool.run { try control.record(id).status }
    }

    /// A browser of a user would let any web page give orders in that user's name: nothing that a page can send is
    /// taken.
    private static func refuseBrowsers(_ request: Request) throws(APIError) {
        if request.headers[.origin] != nil { throw APIError(403, "the API does not serve web pages; use legoctl") }
        // The name of a page's host, made to point to this one, shows itself here.
        let authority = request.head.authority ?? ""
        let host = FabricAddress(authority)?.host ?? authority
        let bare = host.hasPrefix("[") && host.hasSuffix("]") ? String(host.dropFirst().dropLast()) : host
        if bare != "localhost", SocketEnd(bare, port: 0) == nil {
            throw APIError(403, "the API is reached by a numeric address or 'localhost' only; use legoctl")
        }
    }

    private func body<Value: Decodable>(of request: Request) async throws -> Value {
        guard request.headers[.contentType]?.split(separator: ";").first == "application/json" else {
            throw APIError(415, "the body must be JSON with 'Content-Type: application/json'")
        }
        let buffer = try await request.body.collect(upTo: Self.body_max)
        do {
            return try JSONDecoder().decode(Value.self, from: Data(buffer.readableBytesView))
        } catch let error as DecodingError {
            throw APIError(400, "the body is not understood: \(Self.text(of: error))", exitStatus: 126)
        }
    }

    private static func text(of error: DecodingError) -> String {
        func path(_ context: DecodingError.Context, _ last: (any CodingKey)? = nil) -> String {
            (context.codingPath + (last.map { [$0] } ?? [])).map(\.stringValue).joined(separator: ".")
        }
        switch error {
        case .keyNotFound(let key, let context): return "key '\(path(context, key))' is missing"
        case .typeMismatch(let type, let context): return "key '\(path(context))' must be of type \(type)"
        case .valueNotFound(let type, let context): return "key '\(path(context))' must be of type \(type), not null"
        case .dataCorrupted(let context):
            return context.codingPath.isEmpty ? "it is not JSON" : "key '\(path(context))' has an impossible value"
        @unknown default: return "it is not what this request takes"
        }
    }

    private static func json(_ value: some Encodable, status: HTTPResponse.Status = .ok) throws -> Response {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.withoutEscapingSlashes]
        return Response(
            status: status, headers: [.contentType: "application/json"],
            body: ResponseBody(byteBuffer: ByteBuffer(bytes: try encoder.encode(value))))
    }

    private static func response(to error: APIError) -> Response {
        var response =
            (try? json(error.failure, status: .init(code: error.status))) ?? Response(status: .internalServerError)
        if let allowed = error.allowedMethods { response.headers[.allow] = allowed }
        return response
    }
}
