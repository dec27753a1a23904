import CLinux
import Glibc
import Kernel
import Synchronization
import Wire

/// The listening side of a device: greets whoever connects, and queues requests for `nextRequest`. Greetings are
/// handled on the device's thread, a bounded number at a time and each with a deadline.
final class Acceptor: @unchecked Sendable {
    private struct State {
        var listeners: [Listener] = []
        /// TCP connections that have been greeted and have not made their request, by nonce.
        var greeted: [InstanceID: GreetedConnection] = [:]
        /// Unix connections that have not made their request.
        var local: [ObjectIdentifier: LocalConnection] = [:]
        var requests: [SoftConnectionRequest] = []
        var isListening = false
        var isClosed = false
    }

    private let state = Mutex(State())
    /// Futex word: counts arrivals and the closing.
    private let arrivals: UnsafeMutablePointer<UInt32>
    static let greetingTimeout: Duration = .seconds(5)

    init() {
        arrivals = .allocate(capacity: 1)
        arrivals.initialize(to: 0)
    }

    deinit { arrivals.deallocate() }

    // MARK: The owner of the device

    func listen(on address: FabricAddress, context: SoftContext) throws(FabricError) -> FabricAddress {
        let mayListen = state.withLock { state in
            if state.isListening || state.isClosed { return false }
            state.isListening = true
            return true
        }
        if !mayListen { throw .invalid("another listener: a device has at most one, and none once closed") }
        let socket = try Sockets.listen(on: address)
        let port = Sockets.localPort(socket.raw)
        let stream = Listener(socket, isLocal: false, context: context)
        do throws(KernelError) {
            if context.configuration.transport != .tcp {
                let local = Listener(try Sockets.listenLocal(context.instance), isLocal: true, context: context)
                try local.watch()
                state.withLock { $0.listeners.append(local) }
            }
            try stream.watch()
        } catch {
            throw .system(error)
        }
        state.withLock { $0.listeners.append(stream) }
        return FabricAddress(host: address.host, port: port)
    }

    func nextRequest(until deadline: Deadline) -> SoftConnectionRequest? {
        while true {
            let seen = lego_atomic_load_u32(arrivals)
            let (request, isClosed) = state.withLock { state in
                (state.requests.isEmpty ? nil : state.requests.removeFirst(), state.isClosed)
            }
            if let request { return request }
            if isClosed || deadline.hasPassed { return nil }
            Futex.wait(arrivals, while: seen, until: deadline)
        }
    }

    func close(_ loop: EventLoop) {
        let (listeners, greeted, local, requests) = state.withLock { state in
            defer {
                state.listeners = []
                state.greeted = [:]
                state.local = [:]
                state.requests = []
                state.isClosed = true
            }
            return (state.listeners, state.greeted.values, state.local.values, state.requests)
        }
        for listener in listeners { listener.unwatch() }
        for connection in greeted { connection.unwatch() }
        for connection in local { connection.unwatch() }
        for request in requests { request.reject() }
        announce()
    }

    private func announce() {
        _ = lego_atomic_add_u32(arrivals, 1)
        Futex.wake(arrivals, count: .max)
    }

    // MARK: On the device's thread

    func add(_ connection: GreetedConnection) -> Bool {
        state.withLock { state in
            guard !state.isClosed, state.greeted.count < SoftLimits.backlog_max else { return false }
            state.greeted[connection.nonce] = connection
            return true
        }
    }

    func add(_ connection: LocalConnection) -> Bool {
        state.withLock { state in
            guard !state.isClosed, state.local.count < SoftLimits.backlog_max else { return false }
            state.local[ObjectIdentifier(connection)] = connection
            return true
        }
    }

    /// Takes the TCP connection of a nonce out of those that wait; nil when there is none.
    func take(_ nonce: InstanceID) -> GreetedConnection? {
        state.withLock { $0.greeted.removeValue(forKey: nonce) }
    }

    func drop(_ connection: LocalConnection) {
        state.withLock { _ = $0.local.removeValue(forKey: ObjectIdentifier(connection)) }
    }

    func queue(_ request: SoftConnectionRequest) {
        let isQueued = state.withLock { state in
            guard !state.isClosed, state.requests.count < SoftLimits.backlog_max else { return false }
            state.requests.append(request)
            return true
        }
        if isQueued { announce() } else { request.reject() }
    }

    /// Drops connections that have not made their request in time; answers when the next one will be dropped.
    func tick() -> Deadline {
        let (late, earliest) = state.withLock { state -> ([any PendingConnection], Deadline) in
            if state.greeted.isEmpty, state.local.isEmpty { return ([], .never) }
            var late: [any PendingConnection] = []
            var earliest = Deadline.never
            for connection in Array(state.greeted.values) as [any PendingConnection] + Array(state.local.values) {
                if connection.deadline.hasPassed {
                    late.append(connection)
                } else {
                    earliest = min(earliest, connection.deadline)
                }
            }
            return (late, earliest)
        }
        for connection in late { connection.drop() }
        return earliest
    }
}
