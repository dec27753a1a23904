import Glibc
import Kernel

/// The device of a rack: an emulated adapter, and beside it a real one where the host has one. Each connection takes the
/// best way that both its ends have; regions and completion queues serve all of them.
///
/// A region has one key: the adapter's, which the emulated device takes over. So keys travel in greetings and requests
/// without anybody knowing which way they will be used. Cost of an operation beside the device's own: a branch.
public final class HybridDevice: RDMADevice {
    private let soft: SoftDevice
    private let verbs: VerbsDevice?
    private let arrivals = Arrivals()
    private let path: FabricPath
    private let pacer: LinkPacer
    /// Why there is no adapter; nil when there is one, or when none was to be looked for.
    public let adapterAbsence: FabricError?

    /// Throws `noDevice` when an adapter is demanded and there is none.
    public init(_ configuration: HybridDeviceConfiguration = HybridDeviceConfiguration()) throws(FabricError) {
        var absence: FabricError?
        var verbs: VerbsDevice?
        path = configuration.path
        pacer = LinkPacer(clock: configuration.clock)
        if path.mayUseVerbs {
            do throws(FabricError) {
                verbs = try VerbsDevice(configuration: configuration.verbs, arrivals: arrivals)
            } catch {
                // A named adapter that is not there is a mistake, not a choice.
                guard case .noDevice = error, path != .verbs, configuration.adapter.isEmpty else { throw error }
                absence = error
            }
        }
        self.verbs = verbs
        adapterAbsence = absence
        do throws(FabricError) {
            let context = try SoftContext(
                configuration: configuration.soft, offers: verbs == nil ? 0 : AcceptorGreeting.offersVerbs,
                takesPairs: path != .verbs, arrivals: arrivals)
            soft = try SoftDevice(context: context)
        } catch {
            verbs?.close()
            throw error
        }
    }

    deinit { close() }

    /// Whether it has a real adapter.
    public var hasAdapter: Bool { verbs != nil }

    /// What the device consists of and has registered.
    public var status: (adapter: String?, regions: Int, registeredBytes: Int) {
        let (regions, bytes) = soft.context.registered
        return (verbs?.adapterName, regions, bytes)
    }

    // MARK: Memory and queues

    public func allocate(bytes: Int, access: RemoteAccess) throws(FabricError) -> HybridRegion {
        guard let verbs else { return HybridRegion(try soft.allocate(bytes: bytes, access: access), nil) }
        let (file, memory) = try soft.makeMemory(bytes: bytes, access: access)
        return try register(memory, file: file, access: access, verbs)
    }

    public func allocatePool(bytes: Int, access: RemoteAccess) throws(FabricError) -> HybridRegion {
        guard let verbs else { return HybridRegion(try soft.allocatePool(bytes: bytes, access: access), nil) }
        let (file, memory) = try soft.makeMemory(
            bytes: bytes, access: access, huge: soft.context.configuration.hugePages)
        return try register(memory, file: file, access: access, verbs)
    }

    public func register(_ memory: UnsafeMutableRawBufferPointer, access: RemoteAccess) throws(FabricError)
        -> HybridRegion
    {
        guard let verbs else { return HybridRegion(try soft.register(memory, access: access), nil) }
        return try register(memory, file: nil, access: access, verbs)
    }

    /// Registers with both. A key whose slot in the emulated device's table is taken is kept busy until another one has
    /// been found.
    private func register(
        _ memory: UnsafeMutableRawBufferPointer, file: MemoryFile?, access: RemoteAccess, _ verbs: VerbsDevice
    ) throws(FabricError) -> HybridRegion {
        var unusable: [VerbsRegion] = []
        while unusable.count < RegionEntry.slots_max {
            let region = try verbs.register(memory, access: access)
            guard access.isEmpty || region.remoteKey == region.localKey else {
                throw .noDevice("this adapter names memory by two keys, and the rack's devices know one")
            }
            let key = region.localKey
            if let shared = soft.context.addRegion(memory, file: file, access: access, key: key) {
                return HybridRegion(shared, region)
            }
            unusable.append(region)
        }
        throw .invalid("another memory region: a device has at most \(RegionEntry.slots_max), and none once closed")
    }

    public func makeCompletionQueue(capacity: Int) throws(FabricError) -> HybridCompletionQueue {
        try HybridCompletionQueue(soft.makeCompletionQueue(capacity: capacity), verbs, capacity: capacity, pacer: pacer)
    }

    // MARK: Connections

    public func listen(on address: FabricAddress) throws(FabricError) -> FabricAddress {
        guard let verbs else { return try soft.listen(on: address) }
        // Both listen on one port: the greeting of the one tells of the other. Their spaces of ports differ, so that a
        // free port of the one may be taken in the other.
        var attempts = address.port == 0 ? 32 : 1
        while true {
            let socket = try Sockets.listen(on: address)
            let place = FabricAddress(host: address.host, port: Sockets.localPort(socket.raw))
            attempts -= 1
            do throws(FabricError) {
                _ = try verbs.listen(on: place)
            } catch {
                guard case .cannotListen = error, attempts > 0 else { throw error }
                continue
            }
            return try soft.context.acceptor.listen(socket, on: place, context: soft.context)
        }
    }

    public func nextRequest(until deadline: Deadline) throws(FabricError) -> HybridConnectionRequest? {
        arrivals.next(until: deadline) {
            let near = soft.context.acceptor.takeRequest()
            if let request = near.request { return (HybridConnectionRequest(.soft(request)), false) }
            guard let far = verbs?.manager.takeRequest() else { return (nil, near.isClosed) }
            return (far.request.map { HybridConnectionRequest(.verbs($0)) }, near.isClosed && far.isClosed)
        }
    }

    public func connect(
        to address: FabricAddress, send: HybridCompletionQueue, receive: HybridCompletionQueue,
        parameters: QueuePairParameters, privateData: [UInt8], until deadline: Deadline,
        prepare: (HybridQueuePair) throws(FabricError) -> Void
    ) throws(FabricError) -> (HybridQueuePair, privateData: [UInt8]) {
        try parameters.check(privateData: privateData)
        let verbs = verbs
        let connector = Connector(
            context: soft.context, address: address, send: send.soft, receive: receive.soft, parameters: parameters,
            privateData: privateData, deadline: deadline)
        func make(_ kind: consuming HybridQueuePair.Kind, _ reason: String) -> HybridQueuePair {
            HybridQueuePair(kind, parameters: parameters, send: send, receive: receive, reason: reason)
        }
        // The caller prepares the very object that it is answered.
        var made: HybridQueuePair?
        var noWay: FabricError?
        let prepareSoft = { [path, adapterAbsence] (pair: SoftQueuePair) throws(FabricError) in
            let reason = PathReason.connected(
                pair, path: path, hasAdapter: verbs != nil, isAdapterWanted: adapterAbsence != nil, noWay: noWay != nil)
            let hybrid = make(HybridQueuePair.Kind(pair), reason)
            made = hybrid
            try prepare(hybrid)
        }
        if path != .verbs || verbs == nil {
            if let (_, data) = try connector.connect(hasAdapter: verbs != nil, prepareSoft), let made {
                return (made, data)
            }
        }
        guard let verbs else { throw .unreachable(address, reason: "it can be reached by verbs only") }
        do throws(FabricError) {
            let (_, data) = try verbs.connect(
                to: address, send: send.verbsQueue(), receive: receive.verbsQueue(), parameters: parameters,
                privateData: privateData, until: deadline,
                prepare: { (pair) throws(FabricError) in
                    let hybrid = make(HybridQueuePair.Kind(pair), PathReason.accepted(.verbs))
                    made = hybrid
                    try prepare(hybrid)
                })
            if let made { return (made, data) }
        } catch {
            noWay = error
        }
        // Two adapters on networks that do not meet.
        let failure = noWay ?? .unreachable(address, reason: "it gave no queue pair")
        guard case .noWay = failure, path != .verbs, let (_, data) = try connector.connect(prepareSoft), let made else {
            throw failure
        }
        return (made, data)
    }

    public func close() {
        pacer.close()
        verbs?.close()
        soft.close()
    }
}
