import Kernel

/// A memory region of a `HybridDevice`.
public final class HybridRegion: MemoryRegion, @unchecked Sendable {
    public let base: UnsafeMutableRawPointer
    public let count: Int
    public let localKey: UInt32
    public let remoteKey: UInt32
    public let remoteAddress: UInt64
    private let region: any MemoryRegion

    init(_ region: some MemoryRegion) {
        base = region.base
        count = region.count
        localKey = region.localKey
        remoteKey = region.remoteKey
        remoteAddress = region.remoteAddress
        self.region = region
    }

    public func deregister() { region.deregister() }
}

/// A completion queue of a `HybridDevice`.
public final class HybridCompletionQueue: CompletionQueue {
    enum Kind {
        case soft(SoftCompletionQueue)
        case verbs(VerbsCompletionQueue)
    }
    let kind: Kind

    init(_ kind: Kind) { self.kind = kind }

    public func poll(into completions: UnsafeMutableBufferPointer<WorkCompletion>) -> Int {
        switch kind {
        case .soft(let queue): queue.poll(into: completions)
        case .verbs(let queue): queue.poll(into: completions)
        }
    }

    public var notificationDescriptor: Int32 {
        switch kind {
        case .soft(let queue): queue.notificationDescriptor
        case .verbs(let queue): queue.notificationDescriptor
        }
    }

    public func arm() {
        switch kind {
        case .soft(let queue): queue.arm()
        case .verbs(let queue): queue.arm()
        }
    }

    public func acknowledge() {
        switch kind {
        case .soft(let queue): queue.acknowledge()
        case .verbs(let queue): queue.acknowledge()
        }
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
        switch (kind, send.kind, receive.kind) {
        case (.soft(let request), .soft(let send), .soft(let receive)):
            let pair = try request.accept(
                send: send, receive: receive, parameters: parameters, privateData: privateData,
                prepare: { (pair) throws(FabricError) in try prepare(HybridQueuePair(.soft(pair))) })
            return HybridQueuePair(.soft(pair))
        case (.verbs(let request), .verbs(let send), .verbs(let receive)):
            let pair = try request.accept(
                send: send, receive: receive, parameters: parameters, privateData: privateData,
                prepare: { (pair) throws(FabricError) in try prepare(HybridQueuePair(.verbs(pair))) })
            return HybridQueuePair(.verbs(pair))
        default: throw .invalid("completion queues of another device: they must be this device's")
        }
    }

    public func reject() {
        switch kind {
        case .soft(let request): request.reject()
        case .verbs(let request): request.reject()
        }
    }
}
