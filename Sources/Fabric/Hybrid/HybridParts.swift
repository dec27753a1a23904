import Kernel

/// A memory region of a `HybridDevice`, in its emulated part and in its adapter, under one key.
public final class HybridRegion: MemoryRegion, @unchecked Sendable {
    public let base: UnsafeMutableRawPointer
    public let count: Int
    public let localKey: UInt32
    public var remoteKey: UInt32 { localKey }
    public var remoteAddress: UInt64 { UInt64(UInt(bitPattern: base)) }
    private let soft: SoftRegion
    private let verbs: VerbsRegion?

    init(_ soft: SoftRegion, _ verbs: VerbsRegion?) {
        base = soft.base
        count = soft.count
        localKey = soft.localKey
        self.soft = soft
        self.verbs = verbs
    }

    // In this order: memory is unmapped with its soft region, and by then the adapter has let go of it.
    deinit { deregister() }

    public func deregister() {
        verbs?.deregister()
        soft.deregister()
    }
}

/// A queue pair of a `HybridDevice`.
public final class HybridQueuePair: QueuePair {
    public typealias Region = HybridRegion

    enum Kind {
        case soft(SoftQueuePair)
        case verbs(VerbsQueuePair)
    }
    private let kind: Kind
    public let number: UInt32
    public let link: LinkKind

    init(_ kind: Kind) {
        self.kind = kind
        switch kind {
        case .soft(let pair):
            number = pair.number
            link = pair.link
        case .verbs(let pair):
            number = pair.number
            link = pair.link
        }
    }

    public func postSend(_ request: borrowing WorkRequest) -> Bool {
        switch kind {
        case .soft(let pair): pair.postSend(request)
        case .verbs(let pair): pair.postSend(request)
        }
    }

    public func postReceive(id: UInt64, local: UnsafeBufferPointer<ScatterElement>) -> Bool {
        switch kind {
        case .soft(let pair): pair.postReceive(id: id, local: local)
        case .verbs(let pair): pair.postReceive(id: id, local: local)
        }
    }

    public func disconnect() {
        switch kind {
        case .soft(let pair): pair.disconnect()
        case .verbs(let pair): pair.disconnect()
        }
    }

    public func awaitQuiet(until deadline: Deadline) -> Bool {
        switch kind {
        case .soft(let pair): pair.awaitQuiet(until: deadline)
        case .verbs(let pair): pair.awaitQuiet(until: deadline)
        }
    }

    public func beginAccess(_ remoteKey: UInt32, address: UInt64, count: Int, _ access: RemoteAccess)
        -> UnsafeMutableRawPointer?
    {
        switch kind {
        case .soft(let pair): pair.beginAccess(remoteKey, address: address, count: count, access)
        case .verbs: nil
        }
    }

    public func endAccess() { if case .soft(let pair) = kind { pair.endAccess() } }

    public var isConnected: Bool {
        switch kind {
        case .soft(let pair): pair.isConnected
        case .verbs(let pair): pair.isConnected
        }
    }
}

/// A connection request of a `HybridDevice`.
public final class HybridConnectionRequest: ConnectionRequest {
    enum Kind {
        case soft(SoftConnectionRequest)
        case verbs(VerbsConnectionRequest)
    }
    private let kind: Kind
    public let privateData: [UInt8]

    init(_ kind: Kind) {
        self.kind = kind
        switch kind {
        case .soft(let request): privateData = request.privateData
        case .verbs(let request): privateData = request.privateData
        }
    }

    public func accept(
        send: HybridCompletionQueue, receive: HybridCompletionQueue, parameters: QueuePairParameters,
        privateData: [UInt8], prepare: (HybridQueuePair) throws(FabricError) -> Void
    ) throws(FabricError) -> HybridQueuePair {
        switch kind {
        case .soft(let request):
            let pair = try request.accept(
                send: send.soft, receive: receive.soft, parameters: parameters, privateData: privateData,
                prepare: { (pair) throws(FabricError) in try prepare(HybridQueuePair(.soft(pair))) })
            return HybridQueuePair(.soft(pair))
        case .verbs(let request):
            let pair = try request.accept(
                send: send.verbsQueue(), receive: receive.verbsQueue(), parameters: parameters,
                privateData: privateData,
                prepare: { (pair) throws(FabricError) in try prepare(HybridQueuePair(.verbs(pair))) })
            return HybridQueuePair(.verbs(pair))
        }
    }

    public func reject() {
        switch kind {
        case .soft(let request): request.reject()
        case .verbs(let request): request.reject()
        }
    }
}
