import CLinux
import CRdmaCM
import CVerbs
import Glibc
import Kernel
import Synchronization

/// The thread that hears what happens to the connections of a verbs device: requests, establishment, disconnection.
final class ConnectionManager: @unchecked Sendable {
    typealias Identifier = UnsafeMutablePointer<rdma_cm_id>

    private struct WeakPair {
        weak var pair: VerbsQueuePair?
    }
    private struct State: @unchecked Sendable {
        var pairs: [UInt: WeakPair] = [:]
        var requests: [VerbsConnectionRequest] = []
        var listener: Identifier?
        var isClosed = false
    }

    static let backlog_max = 128

    let context: VerbsContext
    let channel: UnsafeMutablePointer<rdma_event_channel>
    private let wakeEvent: EventDescriptor
    private let state = Mutex(State())
    let arrivals: Arrivals
    private let thread = Mutex<KernelThread?>(nil)

    init(context: VerbsContext, arrivals: Arrivals) throws(FabricError) {
        self.context = context
        self.arrivals = arrivals
        do throws(KernelError) {
            wakeEvent = try EventDescriptor()
        } catch {
            throw .system(error)
        }
        channel = try Self.makeChannel()
    }

    deinit { rdma_destroy_event_channel(channel) }

    /// A channel whose events are read without waiting.
    static func makeChannel() throws(FabricError) -> UnsafeMutablePointer<rdma_event_channel> {
        guard let channel = rdma_create_event_channel() else {
            throw .system(KernelError("rdma_create_event_channel"))
        }
        let flags = fcntl(channel.pointee.fd, F_GETFL)
        if flags < 0 || fcntl(channel.pointee.fd, F_SETFL, flags | O_NONBLOCK) < 0 {
            let error = KernelError("fcntl F_SETFL")
            rdma_destroy_event_channel(channel)
            throw .system(error)
        }
        return channel
    }

    func start() throws(FabricError) {
        do throws(KernelError) {
            let events = try AdapterEvents.add(self)
            let started = try KernelThread(name: "lego-rdmacm") { [self] in run(adapterEvents: events) }
            thread.withLock { $0 = started }
        } catch {
            throw .system(error)
        }
    }

    func wake() { wakeEvent.signal() }

    // MARK: The owner of the device

    func listen(on address: FabricAddress) throws(FabricError) -> FabricAddress {
        var made: Identifier?
        guard rdma_create_id(channel, &made, nil, RDMA_PS_TCP) == 0, let identifier = made else {
            throw .system(KernelError("rdma_create_id"))
        }
        do throws(FabricError) {
            try Sockets.withAddresses(of: address, isPassive: true, { .cannotListen(address, reason: $0) }) {
                (name, _) throws(KernelError) in
                if rdma_bind_addr(identifier, UnsafeMutablePointer(mutating: name)) != 0 {
                    throw KernelError("rdma_bind_addr")
                }
                if rdma_listen(identifier, Int32(Self.backlog_max)) != 0 { throw KernelError("rdma_listen") }
            }
            let isTaken = state.withLock { state in
                if state.listener != nil || state.isClosed { return true }
                state.listener = identifier
                return false
            }
            if isTaken { throw .invalid("another listener: a device has at most one, and none once closed") }
        } catch {
            rdma_destroy_id(identifier)
            throw error
        }
        return FabricAddress(host: address.host, port: UInt16(bigEndian: rdma_get_src_port(identifier)))
    }

    /// Takes the oldest request, when there is one.
    func takeRequest() -> (request: VerbsConnectionRequest?, isClosed: Bool) {
        state.withLock { state in
            (state.requests.isEmpty ? nil : state.requests.removeFirst(), state.isClosed)
        }
    }

    /// Hears of a pair from now on.
    func add(_ pair: VerbsQueuePair) -> Bool {
        state.withLock { state in
            if state.isClosed { return false }
            state.pairs[UInt(bitPattern: pair.identifier)] = WeakPair(pair: pair)
            return true
        }
    }

    func forget(_ identifier: Identifier) {
        state.withLock { _ = $0.pairs.removeValue(forKey: UInt(bitPattern: identifier)) }
    }

    func close() {
        let (pairs, requests, listener) = state.withLock {
            state -> ([VerbsQueuePair], [VerbsConnectionRequest], Identifier?) in
            defer {
                state.isClosed = true
                state.requests = []
                state.listener = nil
            }
            return (state.pairs.values.compactMap(\.pair), state.requests, state.listener)
        }
        for request in requests { request.reject() }
        for pair in pairs { pair.disconnect() }
        arrivals.announce()
        let running = thread.withLock { thread in
            defer { thread = nil }
            return thread
        }
        wake()
        running?.join()
        AdapterEvents.remove(self)
        // After the thread: destroying an identifier waits for its events to be acknowledged.
        if let listener { rdma_destroy_id(listener) }
    }

    // MARK: The thread

    private func run(adapterEvents: Int32) {
        while true {
            var entries: InlineArray<3, pollfd> = [
                pollfd(fd: channel.pointee.fd, events: Int16(POLLIN), revents: 0),
                pollfd(fd: wakeEvent.raw, events: Int16(POLLIN), revents: 0),
                pollfd(fd: adapterEvents, events: Int16(POLLIN), revents: 0),
            ]
            var span = entries.mutableSpan
            _ = span.withUnsafeMutableBufferPointer { poll($0.baseAddress, nfds_t($0.count), -1) }
            wakeEvent.drain()
            AdapterEvents.drain(context.adapter)
            while let event = ConnectionEvent(from: channel) { handle(event) }
            tearDown()
            // Once closed, every pair has been told to its peer.
            if state.withLock({ $0.isClosed }) { return }
        }
    }

    /// The adapter has lost connections. On the thread of a manager, this one's or another's of the same adapter.
    func lose(_ loss: AdapterEvents.Loss) {
        let pairs = state.withLock { $0.pairs.values.compactMap(\.pair) }
        for pair in pairs where loss == .adapter || loss == .pair(number: pair.number) { pair.disconnect() }
    }

    /// Tells the peers of pairs that have been disconnected here.
    private func tearDown() {
        let pairs = state.withLock { $0.pairs.values.compactMap(\.pair) }
        for pair in pairs
        where lego_atomic_load_u32(pair.state) == VerbsQueuePair.State.broken.rawValue
            && pair.isEstablished.load(ordering: .acquiring)
            && !pair.isTornDown.exchange(true, ordering: .sequentiallyConsistent)
        {
            rdma_disconnect(pair.identifier)
        }
    }

    private func handle(_ event: ConnectionEvent) {
        if event.kind == RDMA_CM_EVENT_CONNECT_REQUEST { return queue(event) }
        let pair = state.withLock { $0.pairs[UInt(bitPattern: event.identifier)]?.pair }
        guard let pair else { return forgetRequest(event.identifier) }
        switch event.kind {
        case RDMA_CM_EVENT_ESTABLISHED: pair.isEstablished.store(true, ordering: .releasing)
        case RDMA_CM_EVENT_DISCONNECTED, RDMA_CM_EVENT_CONNECT_ERROR, RDMA_CM_EVENT_UNREACHABLE,
            RDMA_CM_EVENT_REJECTED, RDMA_CM_EVENT_DEVICE_REMOVAL:
            pair.disconnect()
        default: break
        }
    }

    /// The initiator of a request that nobody has answered has given up.
    private func forgetRequest(_ identifier: Identifier) {
        let request = state.withLock { state -> VerbsConnectionRequest? in
            guard let index = state.requests.firstIndex(where: { $0.identifier == identifier }) else { return nil }
            return state.requests.remove(at: index)
        }
        request?.reject()
    }

    private func queue(_ event: ConnectionEvent) {
        let request = VerbsConnectionRequest(manager: self, event: event)
        guard event.identifier.pointee.verbs == context.adapter else { return request.reject() }
        let isQueued = state.withLock { state in
            guard !state.isClosed, state.requests.count < Self.backlog_max else { return false }
            state.requests.append(request)
            return true
        }
        if isQueued { arrivals.announce() } else { request.reject() }
    }
}

/// A copy of a connection manager's event, which has been acknowledged: destroying an identifier waits for that.
struct ConnectionEvent {
    let kind: rdma_cm_event_type
    let identifier: UnsafeMutablePointer<rdma_cm_id>
    let status: Int32
    let privateData: [UInt8]
    let responderResources: UInt8
    let initiatorDepth: UInt8

    /// Takes the next event; nil when there is none.
    init?(from channel: UnsafeMutablePointer<rdma_event_channel>) {
        var next: UnsafeMutablePointer<rdma_cm_event>?
        guard rdma_get_cm_event(channel, &next) == 0, let event = next, let identifier = event.pointee.id else {
            return nil
        }
        kind = event.pointee.event
        self.identifier = identifier
        status = event.pointee.status
        var carried: [UInt8] = []
        if kind == RDMA_CM_EVENT_CONNECT_REQUEST || kind == RDMA_CM_EVENT_ESTABLISHED {
            let parameters = event.pointee.param.conn
            if let bytes = parameters.private_data {
                // The connection manager pads what it carries; at most 56 bytes are the sender's.
                let count = min(Int(parameters.private_data_len), SoftLimits.privateData_max)
                carried = Array(UnsafeRawBufferPointer(start: bytes, count: count))
            }
            responderResources = parameters.responder_resources
            initiatorDepth = parameters.initiator_depth
        } else {
            responderResources = 0
            initiatorDepth = 0
        }
        privateData = carried
        rdma_ack_cm_event(event)
    }
}
