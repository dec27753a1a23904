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
    private let arrivals: Arrivals
    static let greetingTimeout: Duration = .seconds(5)

    init(arrivals: Arrivals) { self.arrivals = arrivals }

    // MARK: The owner of the device

    func listen(on address: FabricAddress, context: SoftContext) throws(FabricError) -> FabricAddress {
        try listen(Sockets.listen(on: address), on: address, context: context)
    }

    /// Listens with a socket that has been bound to the address. Answers the address with the port that it has.
    func listen(_ socket: consuming Descriptor, on address: FabricAddress, context: SoftContext) throws(FabricError)
        -> FabricAddress
    {
        let mayListen = state.withLock { state in
            if state.isListening || state.isClosed { return false }
            state.isListening = true
            return true
        }
        if !mayListen { throw .invalid("another listener: a device has at most one, and none once closed") }
        let port = Sockets.localPort(socket.raw)
        let stream = Listener(socket, isLocal: false, context: context)
        do throws(KernelError) {
            if context.offers & AcceptorGreeting.offersSharedMemory != 0 {
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

    /// Takes the oldest request, when there is one.
    func takeRequest() -> (request: SoftConnectionRequest?, isClosed: Bool) {
        state.withLock { state in
            (state.requests.isEmpty ? nil : state.requests.removeFirst(), state.isClosed)
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
        arrivals.announce()
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
        if isQueued { arrivals.announce() } else { request.reject() }
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
