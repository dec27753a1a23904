import Glibc
import Kernel

/// An RDMA network adapter: InfiniBand, RoCE, iWARP or Soft-RoCE, by libibverbs and librdmacm. All peers are reached
/// through the one adapter that the device opened.
public final class VerbsDevice: RDMADevice {
    private let context: VerbsContext
    let manager: ConnectionManager

    /// Opens the adapter that the configuration asks for. Throws `noDevice` when there is none with an active port.
    public convenience init(configuration: VerbsDeviceConfiguration = VerbsDeviceConfiguration()) throws(FabricError) {
        try self.init(configuration: configuration, arrivals: Arrivals())
    }

    init(configuration: VerbsDeviceConfiguration, arrivals: Arrivals) throws(FabricError) {
        context = try VerbsContext(configuration: configuration)
        manager = try ConnectionManager(context: context, arrivals: arrivals)
        try manager.start()
    }

    deinit { close() }

    /// As the system names it, e.g. `mlx5_0`.
    public var adapterName: String { VerbsContext.name(of: context.adapter) ?? "unnamed" }

    public func allocate(bytes: Int, access: RemoteAccess) throws(FabricError) -> VerbsRegion {
        try checkRegion(bytes)
        return try .allocate(context, bytes: bytes, access: access)
    }

    public func register(_ memory: UnsafeMutableRawBufferPointer, access: RemoteAccess) throws(FabricError)
        -> VerbsRegion
    {
        try checkRegion(memory.count)
        return try VerbsRegion(context: context, memory: memory, mappedBytes: 0, access: access)
    }

    private func checkRegion(_ bytes: Int) throws(FabricError) {
        let max = Int(clamping: context.limits.max_mr_size)
        guard bytes > 0, bytes <= max else {
            throw .invalid("a memory region of \(bytes) bytes is out of range: 1 to \(max)")
        }
    }

    public func makeCompletionQueue(capacity: Int) throws(FabricError) -> VerbsCompletionQueue {
        let max = Int(context.limits.max_cqe)
        guard (1...max).contains(capacity) else {
            throw .invalid("a completion queue of \(capacity) is out of range: 1 to \(max)")
        }
        return try VerbsCompletionQueue(context: context, capacity: capacity)
    }

    public func listen(on address: FabricAddress) throws(FabricError) -> FabricAddress {
        try manager.listen(on: address)
    }

    public func nextRequest(until deadline: Deadline) throws(FabricError) -> VerbsConnectionRequest? {
        manager.arrivals.next(until: deadline) { manager.takeRequest() }
    }

    public func connect(
        to address: FabricAddress, send: VerbsCompletionQueue, receive: VerbsCompletionQueue,
        parameters: QueuePairParameters, privateData: [UInt8], until deadline: Deadline,
        prepare: (VerbsQueuePair) throws(FabricError) -> Void
    ) throws(FabricError) -> (VerbsQueuePair, privateData: [UInt8]) {
        try parameters.check(privateData: privateData)
        let connector = VerbsConnector(
            context: context, manager: manager, address: address, send: send, receive: receive, parameters: parameters,
            privateData: privateData, deadline: deadline)
        return try connector.connect(prepare)
    }

    public func close() { manager.close() }
}
