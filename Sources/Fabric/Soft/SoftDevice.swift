import Kernel

// Stands here so that the layers above compile; the real device replaces it.
public final class SoftRegion: MemoryRegion {
    public var base: UnsafeMutableRawPointer { fatalError("in work") }
    public var count: Int { fatalError("in work") }
    public var localKey: UInt32 { fatalError("in work") }
    public var remoteKey: UInt32 { fatalError("in work") }
    public var remoteAddress: UInt64 { fatalError("in work") }
    public func deregister() { fatalError("in work") }
}

public final class SoftCompletionQueue: CompletionQueue {
    public func poll(into completions: UnsafeMutableBufferPointer<WorkCompletion>) -> Int { fatalError("in work") }
    public var notificationDescriptor: Int32 { fatalError("in work") }
    public func arm() { fatalError("in work") }
    public func acknowledge() { fatalError("in work") }
}

public final class SoftQueuePair: QueuePair {
    public typealias Region = SoftRegion
    public var number: UInt32 { fatalError("in work") }
    public var link: LinkKind { fatalError("in work") }
    public func postSend(_ request: borrowing WorkRequest) -> Bool { fatalError("in work") }
    public func postReceive(id: UInt64, local: UnsafeBufferPointer<ScatterElement>) -> Bool { fatalError("in work") }
    public func disconnect() { fatalError("in work") }
    public var isConnected: Bool { fatalError("in work") }
}

public final class SoftConnectionRequest: ConnectionRequest {
    public var privateData: [UInt8] { fatalError("in work") }
    public func accept(
        send: SoftCompletionQueue, receive: SoftCompletionQueue, parameters: QueuePairParameters, privateData: [UInt8],
        prepare: (SoftQueuePair) throws(FabricError) -> Void
    ) throws(FabricError) -> SoftQueuePair { fatalError("in work") }
    public func reject() { fatalError("in work") }
}

public final class SoftDevice: RDMADevice {
    public init() throws(FabricError) {}
    public func allocate(bytes: Int, access: RemoteAccess) throws(FabricError) -> SoftRegion { fatalError("in work") }
    public func register(_ memory: UnsafeMutableRawBufferPointer, access: RemoteAccess) throws(FabricError)
        -> SoftRegion
    { fatalError("in work") }
    public func makeCompletionQueue(capacity: Int) throws(FabricError) -> SoftCompletionQueue { fatalError("in work") }
    public func listen(on address: FabricAddress) throws(FabricError) -> FabricAddress { fatalError("in work") }
    public func nextRequest(until deadline: Deadline) throws(FabricError) -> SoftConnectionRequest? {
        fatalError("in work")
    }
    public func connect(
        to address: FabricAddress, send: SoftCompletionQueue, receive: SoftCompletionQueue,
        parameters: QueuePairParameters, privateData: [UInt8], until deadline: Deadline,
        prepare: (SoftQueuePair) throws(FabricError) -> Void
    ) throws(FabricError) -> (SoftQueuePair, privateData: [UInt8]) { fatalError("in work") }
    public func close() { fatalError("in work") }
}
