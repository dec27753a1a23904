import CLinux
import Glibc
import Kernel
import Synchronization
import Wire

/// The listening side of a device: greets whoever connects, and queues requests for `nextRequest`. Greetings are handled on the
/// device's thread, a bounded number at a time and each with a deadline.
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
        let (raw, port) = try Sockets.listen(on: address)
        let stream = Listener(Descriptor(taking: raw), isLocal: false, context: context)
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

/// A connection that has not made its request yet.
protocol PendingConnection: AnyObject {
    var deadline: Deadline { get }
    /// Closes it. On the device's thread.
    func drop()
}

/// A listening socket.
final class Listener: EventHandler, @unchecked Sendable {
    private let socket: Descriptor
    private let isLocal: Bool
    private unowned let context: SoftContext
    private var token: UInt64 = 0

    init(_ socket: consuming Descriptor, isLocal: Bool, context: SoftContext) {
        self.socket = socket
        self.isLocal = isLocal
        self.context = context
    }

    func watch() throws(KernelError) {
        token = context.loop.register(self)
        try context.loop.watch(socket.raw, token: token)
    }

    func unwatch() { context.loop.remove(socket.raw, token: token) }

    func handle(_ events: UInt32) {
        // One at a time: epoll comes back while more are waiting.
        let raw = lego_accept(socket.raw, 1)
        if raw < 0 { return }
        let connection = Descriptor(taking: raw)
        if isLocal {
            LocalConnection(connection, context: context).start()
        } else {
            GreetedConnection(connection, context: context).start()
        }
    }
}

/// A TCP connection from its greeting until it makes its request, here or through the Unix socket.
final class GreetedConnection: EventHandler, PendingConnection, @unchecked Sendable {
    let nonce = InstanceID.random()
    let deadline = Deadline.after(Acceptor.greetingTimeout)
    private unowned let context: SoftContext
    // The device thread's, but for the last release.
    private var socket: Descriptor?
    private let raw: Int32
    private var token: UInt64 = 0
    private var request: [UInt8] = []

    init(_ socket: consuming Descriptor, context: SoftContext) {
        raw = socket.raw
        self.socket = consume socket
        self.context = context
    }

    func start() {
        let transport = context.configuration.transport
        let greeting = AcceptorGreeting(
            instance: context.instance, host: context.host, nonce: nonce,
            offers: (transport != .tcp ? AcceptorGreeting.offersSharedMemory : 0)
                | (transport != .sharedMemory ? AcceptorGreeting.offersTCP : 0))
        guard context.acceptor.add(self) else { return }
        do throws(KernelError) {
            try Sockets.sendGreeting(raw, greeting.encoded(AcceptorGreeting.encodedSize))
            token = context.loop.register(self)
            try context.loop.watch(raw, token: token)
        } catch {
            drop()
        }
    }

    func handle(_ events: UInt32) {
        var buffer = [UInt8](repeating: 0, count: PairGreeting.encodedSize - request.count)
        let count = recv(raw, &buffer, buffer.count, Int32(MSG_DONTWAIT))
        if count < 0, errno == EAGAIN || errno == EINTR { return }
        if count <= 0 { return drop() }
        request += buffer.prefix(count)
        if request.count == PairGreeting.encodedSize { makeRequest() }
    }

    private func makeRequest() {
        drop()
    }

    func unwatch() { context.loop.remove(raw, token: token) }

    func drop() {
        _ = context.acceptor.take(nonce)
        unwatch()
        socket = nil
    }
}

/// A Unix connection that has not made its request yet.
final class LocalConnection: EventHandler, PendingConnection, @unchecked Sendable {
    let deadline = Deadline.after(Acceptor.greetingTimeout)
    private unowned let context: SoftContext
    // The device thread's.
    private var socket: Descriptor?
    private let raw: Int32
    private var token: UInt64 = 0

    init(_ socket: consuming Descriptor, context: SoftContext) {
        raw = socket.raw
        self.socket = consume socket
        self.context = context
    }

    func start() {
        guard context.acceptor.add(self) else { return }
        do throws(KernelError) {
            token = context.loop.register(self)
            try context.loop.watch(raw, token: token)
        } catch {
            drop()
        }
    }

    func handle(_ events: UInt32) {
        var bytes = [UInt8](repeating: 0, count: PairGreeting.encodedSize + 1)
        var packet = ReceivedPacket(from: raw, into: &bytes)
        switch packet.outcome {
        case .none: return
        case .endOfStream: return drop()
        case .packet: break
        }
        let greeting = bytes.withUnsafeBytes {
            PairGreeting(decoding: UnsafeRawBufferPointer(rebasing: $0.prefix(packet.count)))
        }
        // The nonce proves that both sockets lead to one host's one process.
        guard let greeting, greeting.kind == .request, let greeted = context.acceptor.take(greeting.nonce),
            let page = packet.take(0), let offer = SharedOffer(&packet, from: 1, instance: greeting.instance)
        else { return drop() }
        greeted.drop()
        unwatch()
        context.acceptor.drop(self)
        guard let socket = socket.take() else { return }
        context.acceptor.queue(
            SoftConnectionRequest(context: context, greeting: greeting, control: socket, page: page, offer: offer))
    }

    func unwatch() { context.loop.remove(raw, token: token) }

    func drop() {
        context.acceptor.drop(self)
        unwatch()
        socket = nil
    }
}
