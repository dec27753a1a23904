import CLinux
import CRdmaCM
import CVerbs
import Glibc
import Kernel

/// One attempt to connect through the RDMA connection manager, on the caller's thread and an event channel of its own.
struct VerbsConnector {
    /// Attempts while the peer has no receive posted; 7 would be for ever.
    static let receiverNotReadyRetries: UInt8 = 6
    /// Attempts while the peer does not answer.
    private static let retries: UInt8 = 7

    let context: VerbsContext
    let manager: ConnectionManager
    let address: FabricAddress
    let send: VerbsCompletionQueue
    let receive: VerbsCompletionQueue
    let parameters: QueuePairParameters
    let privateData: [UInt8]
    let deadline: Deadline

    func connect(_ prepare: (VerbsQueuePair) throws(FabricError) -> Void) throws(FabricError) -> (
        VerbsQueuePair, privateData: [UInt8]
    ) {
        let channel = try ConnectionManager.makeChannel()
        // After the identifier has moved to the device's channel, or has been destroyed with its pair.
        defer { rdma_destroy_event_channel(channel) }
        return try attempt(on: channel, prepare)
    }

    private func attempt(
        on channel: UnsafeMutablePointer<rdma_event_channel>, _ prepare: (VerbsQueuePair) throws(FabricError) -> Void
    ) throws(FabricError) -> (VerbsQueuePair, privateData: [UInt8]) {
        var made: UnsafeMutablePointer<rdma_cm_id>?
        guard rdma_create_id(channel, &made, nil, RDMA_PS_TCP) == 0, let identifier = made else {
            throw .system(KernelError("rdma_create_id"))
        }
        let pair: VerbsQueuePair
        do throws(FabricError) {
            try resolve(identifier, channel)
            guard identifier.pointee.verbs == context.adapter else {
                throw .noWay(address, reason: "the way there leads over another one")
            }
            pair = try VerbsQueuePair(
                context: context, manager: manager, identifier: identifier, send: send, receive: receive,
                parameters: parameters)
        } catch {
            rdma_destroy_id(identifier)
            throw error
        }
        // From here the pair's end destroys the identifier.
        try prepare(pair)
        try request(identifier)
        let event = try awaitEvent(RDMA_CM_EVENT_ESTABLISHED, channel, "waiting for \(address) to accept")
        pair.isEstablished.store(true, ordering: .releasing)
        guard manager.add(pair) else { throw .invalid("a connection of a closed device: none can be made") }
        // Events that have come meanwhile move along.
        guard rdma_migrate_id(identifier, manager.channel) == 0 else {
            throw .system(KernelError("rdma_migrate_id"))
        }
        pair.becomeConnected()
        return (pair, event.privateData)
    }

    private func resolve(
        _ identifier: UnsafeMutablePointer<rdma_cm_id>, _ channel: UnsafeMutablePointer<rdma_event_channel>
    ) throws(FabricError) {
        let milliseconds = max(1, deadline.nanoseconds == .max ? 10_000 : deadline.pollMilliseconds)
        if let source = context.configuration.address {
            let place = FabricAddress(host: source, port: 0)
            try Sockets.withAddresses(of: place, isPassive: true, { .cannotListen(place, reason: $0) }) {
                (name, _) throws(KernelError) in
                if rdma_bind_addr(identifier, UnsafeMutablePointer(mutating: name)) != 0 {
                    throw KernelError("rdma_bind_addr")
                }
            }
        }
        try Sockets.withAddresses(of: address, isPassive: false, { .unreachable(address, reason: $0) }) {
            (name, _) throws(KernelError) in
            if rdma_resolve_addr(identifier, nil, UnsafeMutablePointer(mutating: name), milliseconds) != 0 {
                throw KernelError("rdma_resolve_addr")
            }
        }
        _ = try awaitEvent(RDMA_CM_EVENT_ADDR_RESOLVED, channel, "resolving \(address)")
        if rdma_resolve_route(identifier, milliseconds) != 0 {
            throw .noWay(address, reason: KernelError("rdma_resolve_route").description)
        }
        _ = try awaitEvent(RDMA_CM_EVENT_ROUTE_RESOLVED, channel, "finding the way to \(address)")
    }

    private func request(_ identifier: UnsafeMutablePointer<rdma_cm_id>) throws(FabricError) {
        let result = privateData.withUnsafeBytes { bytes in
            var request = rdma_conn_param()
            request.private_data = bytes.baseAddress
            request.private_data_len = UInt8(bytes.count)
            request.responder_resources = UInt8(clamping: context.limits.max_qp_rd_atom)
            request.initiator_depth = UInt8(clamping: context.limits.max_qp_init_rd_atom)
            request.retry_count = Self.retries
            request.rnr_retry_count = Self.receiverNotReadyRetries
            return rdma_connect(identifier, &request)
        }
        if result != 0 { throw .unreachable(address, reason: KernelError("rdma_connect").description) }
    }

    /// Waits for an event of this attempt.
    private func awaitEvent(
        _ kind: rdma_cm_event_type, _ channel: UnsafeMutablePointer<rdma_event_channel>, _ what: String
    ) throws(FabricError) -> ConnectionEvent {
        while true {
            if let event = ConnectionEvent(from: channel) {
                if event.kind == kind { return event }
                throw failure(event)
            }
            do throws(KernelError) {
                try Sockets.wait(for: channel.pointee.fd, Int16(POLLIN), until: deadline, "poll")
            } catch {
                if error.number == ETIMEDOUT { throw .timedOut(what) }
                throw .system(error)
            }
        }
    }

    private func failure(_ event: ConnectionEvent) -> FabricError {
        if event.kind == RDMA_CM_EVENT_REJECTED { return .unreachable(address, reason: "it refused the connection") }
        let name = rdma_event_str(event.kind).map { String(cString: $0) } ?? "event \(event.kind.rawValue)"
        let reason = event.status < 0 ? "\(name): \(KernelError.text(-event.status))" : name
        let isWayless =
            event.kind == RDMA_CM_EVENT_ADDR_ERROR || event.kind == RDMA_CM_EVENT_ROUTE_ERROR
            || event.kind == RDMA_CM_EVENT_UNREACHABLE
        return isWayless ? .noWay(address, reason: reason) : .unreachable(address, reason: reason)
    }
}
