import CLinux
import Glibc
import Kernel
import Synchronization

/// Memory registered with a `SoftDevice`. Allocated regions are memory files, which peers on the same host map; memory
/// that the caller brought is reached by peers through the device's thread.
public final class SoftRegion: MemoryRegion, @unchecked Sendable {
    public let base: UnsafeMutableRawPointer
    public let count: Int
    public let localKey: UInt32
    public var remoteKey: UInt32 { localKey }
    public var remoteAddress: UInt64 { UInt64(UInt(bitPattern: base)) }

    /// Nil where the caller brought the memory. Kept until this object goes: local users may hold pointers after
    /// `deregister`.
    private let file: MemoryFile?
    private let context: SoftContext

    init(context: SoftContext, memory: UnsafeMutableRawBufferPointer, file: MemoryFile?, key: UInt32) {
        self.context = context
        self.file = file
        base = memory.baseAddress!
        count = memory.count
        localKey = key
    }

    deinit { deregister() }

    /// Idempotent; a concurrent second call answers when the first one has done its work. Not to be called by a handler
    /// that itself runs inside a poll. Waits for the accesses under way: microseconds, or as long as the largest copy
    /// takes.
    public func deregister() { context.deregister(localKey) }
}
