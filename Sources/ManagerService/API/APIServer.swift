import Fabric
import Glibc
import Hummingbird
import HummingbirdCore
import Kernel
import Logging
import NIOCore
import ServiceLifecycle
import Synchronization

/// The HTTP server of the API, from its start to its stop.
final class APIServer: Sendable {
    /// Connections at a time; more wait in the backlog.
    static let connections_max = 512

    private struct State {
        var address: FabricAddress?
        var error: ManagerError?
        var task: Task<Void, Never>?
        var group: ServiceGroup?
    }

    private let state = Mutex(State())
    /// Signalled when the server listens or has failed, and again when it has ended.
    private let started = Semaphore()
    private let ended = Semaphore()
    private let responder: APIResponder
    private let logger: Logger

    init(responder: APIResponder, logger: Logger) {
        self.responder = responder
        // The library reports every connection; that is of interest for the library only.
        var quiet = logger
        quiet.logLevel = max(logger.logLevel, .warning)
        self.logger = quiet
    }

    /// Starts to serve and answers where. Blocks until that is so: not on the concurrency pool.
    func start(on listen: FabricAddress) throws(ManagerError) -> FabricAddress {
        let application = Application(
            responder: responder,
            server: .http1(configuration: .init(idleTimeout: .seconds(60))),
            configuration: ApplicationConfiguration(
                address: .hostname(listen.host, port: Int(listen.port)), serverName: nil, backlog: 256,
                availableConnectionsDelegate: MaximumAvailableConnections(Self.connections_max)),
            onServerRunning: { [self] channel in
                let port = UInt16(clamping: channel.localAddress?.port ?? 0)
                state.withLock { $0.address = FabricAddress(host: listen.host, port: port) }
                started.post()
            },
            logger: logger)
        let group = ServiceGroup(configuration: .init(services: [application], logger: logger))
        let task = Task { [self] in
            do {
                try await group.run()
            } catch {
                let reason = (error as? IOError).map { KernelError.text($0.errnoCode) } ?? "\(error)"
                state.withLock { $0.error = .cannotListen(address: listen.description, reason: reason) }
            }
            started.post()
            ended.post()
        }
        state.withLock { state in
            state.task = task
            state.group = group
        }
        let isStarted = started.wait(seconds: 10)
        let (address, error) = state.withLock { ($0.address, $0.error) }
        if let error { throw error }
        guard isStarted, let address else {
            task.cancel()
            throw .cannotListen(address: listen.description, reason: "no answer within 10 s")
        }
        return address
    }

    /// Lets requests under way finish for a second, then ends connections and the server. Blocks until it has ended, at
    /// most 3 s. Idempotent.
    func stop() {
        let (task, group) = state.withLock { state in
            defer { (state.task, state.group) = (nil, nil) }
            return (state.task, state.group)
        }
        guard let task, let group else { return }
        Task { await group.triggerGracefulShutdown() }
        if ended.wait(seconds: 1) { return }
        task.cancel()
        _ = ended.wait(seconds: 2)
    }
}
