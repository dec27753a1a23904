import CVerbs
import Glibc
import Kernel
import Synchronization

/// Memory registered with a `VerbsDevice`.
public final class VerbsRegion: MemoryRegion, @unchecked Sendable {
    public let base: UnsafeMutableRawPointer
    public let count: Int
    public let localKey: UInt32
    public let remoteKey: UInt32
    public var remoteAddress: UInt64 { UInt64(UInt(bitPattern: base)) }

    private let context: VerbsContext
    /// Bytes that this object mapped, 0 where the caller brought the memory.
    private let mappedBytes: Int
    private let registration: Mutex<UInt?>

    init(context: VerbsContext, memory: UnsafeMutableRawBufferPointer, mappedBytes: Int, access: RemoteAccess)
        throws(FabricError)
    {
        var rights = IBV_ACCESS_LOCAL_WRITE.rawValue
        if access.contains(.read) { rights |= IBV_ACCESS_REMOTE_READ.rawValue }
        if access.contains(.write) { rights |= IBV_ACCESS_REMOTE_WRITE.rawValue }
        if access.contains(.atomic) { rights |= IBV_ACCESS_REMOTE_ATOMIC.rawValue }
        guard let made = lego_verbs_register(context.domain, memory.baseAddress, memory.count, Int32(rights)) else {
            throw .system(KernelError("ibv_reg_mr"))
        }
        self.context = context
        self.mappedBytes = mappedBytes
        base = memory.baseAddress!
        count = memory.count
        localKey = made.pointee.lkey
        remoteKey = made.pointee.rkey
        registration = Mutex(UInt(bitPattern: made))
    }

    /// Maps, places and registers zeroed memory.
    static func allocate(_ context: VerbsContext, bytes: Int, access: RemoteAccess) throws(FabricError) -> VerbsRegion {
        let rounded = (bytes + 4095) & ~4095
        let base = mmap(nil, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let base, base != MAP_FAILED else { throw .system(KernelError("mmap")) }
        // A child's copy-on-write must not part this process from the pages that the adapter uses.
        madvise(base, rounded, MADV_DONTFORK)
        do throws(FabricError) {
            try MemoryNode.bind(base, bytes: rounded, to: context.configuration.memoryNode)
            return try VerbsRegion(
                context: context, memory: UnsafeMutableRawBufferPointer(start: base, count: bytes),
                mappedBytes: rounded,
                access: access)
        } catch {
            munmap(base, rounded)
            throw error
        }
    }

    deinit {
        deregister()
        if mappedBytes > 0 { munmap(base, mappedBytes) }
    }

    /// The adapter itself ends what is under way before this returns.
    public func deregister() {
        registration.withLock { registration in
            guard let address = registration else { return }
            registration = nil
            if let made = UnsafeMutablePointer<ibv_mr>(bitPattern: address) { ibv_dereg_mr(made) }
        }
    }
}
