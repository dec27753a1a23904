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
        func make(_ kind: consuming HybridQueuePair.Kind) -> HybridQueuePair {
            let reason = PathReason.accepted(kind.link)
            return HybridQueuePair(kind, parameters: parameters, send: send, receive: receive, reason: reason)
        }
        // The caller prepares the very object that it is answered.
        var made: HybridQueuePair?
        switch kind {
        case .soft(let request):
            let pair = try request.accept(
                send: send.soft, receive: receive.soft, parameters: parameters, privateData: privateData,
                prepare: { (pair) throws(FabricError) in
                    let hybrid = make(HybridQueuePair.Kind(pair))
                    made = hybrid
                    try prepare(hybrid)
                })
            return made ?? make(HybridQueuePair.Kind(pair))
        case .verbs(let request):
            let pair = try request.accept(
                send: send.verbsQueue(), receive: receive.verbsQueue(), parameters: parameters,
                privateData: privateData,
                prepare: { (pair) throws(FabricError) in
                    let hybrid = make(HybridQueuePair.Kind(pair))
                    made = hybrid
                    try prepare(hybrid)
                })
            return made ?? make(HybridQueuePair.Kind(pair))
        }
    }

    public func reject() {
        switch kind {
        case .soft(let request): request.reject()
        case .verbs(let request): request.reject()
        }
    }
}
