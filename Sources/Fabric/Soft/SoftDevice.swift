import CLinux
import Glibc
import Kernel

/// An emulated RDMA network adapter, for hosts without one. Peers on the same host copy between each other's registered
/// memory themselves, the target's processor having no part in it; others are reached by TCP and served by the device's
/// thread.
///
/// Idle, it costs nothing: its one thread sleeps. Everything that peers share is memory files and abstract sockets,
/// which the kernel takes back when the last process goes, whatever ends it.
public final class SoftDevice: RDMADevice {
    let context: SoftContext

    public init(configuration: SoftDeviceConfiguration = SoftDeviceConfiguration()) throws(FabricError) {
        context = try SoftContext(configuration: configuration, arrivals: Arrivals())
        try context.start()
    }

    /// The emulated part of a device that may also have an adapter.
    init(context: SoftContext) throws(FabricError) {
        self.context = context
        try context.start()
    }

    deinit { close() }

    public func allocate(bytes: Int, access: RemoteAccess) throws(FabricError) -> SoftRegion {
        let (file, memory) = try makeMemory(bytes: bytes, access: access)
        return try context.addRegion(memory, file: file, access: access)
    }

    public func allocatePool(bytes: Int, access: RemoteAccess) throws(FabricError) -> SoftRegion {
        let (file, memory) = try makeMemory(bytes: bytes, access: access, huge: context.configuration.hugePages)
        return try context.addRegion(memory, file: file, access: access)
    }

    /// Memory for a region, not registered yet.
    func makeMemory(bytes: Int, access: RemoteAccess, huge: HugePages = .never) throws(FabricError) -> (
        file: MemoryFile, memory: UnsafeMutableRawBufferPointer
    ) {
        guard bytes > 0, bytes <= SoftLimits.regionBytes_max else {
            throw .invalid("a memory region of \(bytes) bytes is out of range: 1 to \(SoftLimits.regionBytes_max)")
        }
        let file: MemoryFile
        let kept = try huge.makeFile(bytes: bytes)
        do throws(KernelError) {
            if let kept {
                file = kept
            } else {
                let rounded = (bytes + 4095) & ~4095
                let descriptor = try Descriptor(
                    checking: "memfd_create", lego_memfd_create_fixed("lego-region", UInt64(rounded)))
                file = try MemoryFile(mapping: descriptor, bytes: rounded)
                // An offer, which kernels that do not join shared pages refuse.
                if huge != .never { madvise(file.base, rounded, MADV_HUGEPAGE) }
            }
            if access.isDisjoint(with: [.write, .atomic]) {
                _ = try checked("fcntl F_ADD_SEALS", lego_memfd_seal_future_writes(file.descriptor))
            }
        } catch {
            throw .system(error)
        }
        try MemoryNode.bind(file.base, bytes: file.count, to: context.configuration.memoryNode)
        return (file, UnsafeMutableRawBufferPointer(start: file.base, count: bytes))
    }

    public func register(_ memory: UnsafeMutableRawBufferPointer, access: RemoteAccess) throws(FabricError)
        -> SoftRegion
    {
        guard memory.count > 0, memory.count <= SoftLimits.regionBytes_max else {
            throw .invalid(
                "a memory region of \(memory.count) bytes is out of range: 1 to \(SoftLimits.regionBytes_max)")
        }
        return try context.addRegion(memory, file: nil, access: access)
    }

    public func makeCompletionQueue(capacity: Int) throws(FabricError) -> SoftCompletionQueue {
        guard (1...SoftLimits.completions_max).contains(capacity) else {
            throw .invalid("a completion queue of \(capacity) is out of range: 1 to \(SoftLimits.completions_max)")
        }
        do throws(KernelError) {
            return try SoftCompletionQueue(capacity: capacity)
        } catch {
            throw .system(error)
        }
    }

    public func listen(on address: FabricAddress) throws(FabricError) -> FabricAddress {
        try context.acceptor.listen(on: address, context: context)
    }

    public func nextRequest(until deadline: Deadline) throws(FabricError) -> SoftConnectionRequest? {
        context.arrivals.next(until: deadline) { context.acceptor.takeRequest() }
    }

    public func connect(
        to address: FabricAddress, send: SoftCompletionQueue, receive: SoftCompletionQueue,
        parameters: QueuePairParameters, privateData: [UInt8], until deadline: Deadline,
        prepare: (SoftQueuePair) throws(FabricError) -> Void
    ) throws(FabricError) -> (SoftQueuePair, privateData: [UInt8]) {
        try parameters.check(privateData: privateData)
        let connector = Connector(
            context: context, address: address, send: send, receive: receive, parameters: parameters,
            privateData: privateData, deadline: deadline)
        guard let result = try connector.connect(prepare) else {
            throw .unreachable(address, reason: "it can be reached by verbs only")
        }
        return result
    }

    public func close() { context.close() }
}
