import CLinux
import Glibc

/// A mapped memory file (memfd): memory that other processes can map when they are given its descriptor.
public final class MemoryFile: @unchecked Sendable {
    private let file: Descriptor
    /// First mapped byte, page-aligned. The memory reads as zero until written.
    public let base: UnsafeMutableRawPointer
    /// Length in bytes, a multiple of the page size.
    public let count: Int

    /// Creates and maps `bytes` (rounded up to whole pages) of fresh memory.
    public convenience init(name: String, bytes: Int) throws(KernelError) {
        let rounded = (bytes + 4095) & ~4095
        let file = try Descriptor(checking: "memfd_create", lego_memfd_create(name, UInt64(rounded)))
        try self.init(mapping: file, bytes: rounded)
    }

    /// Maps a memory file that came from another process. A file shorter than `bytes` is refused with EINVAL: touching what
    /// lies beyond its end would raise SIGBUS.
    public init(mapping file: consuming Descriptor, bytes: Int, writable: Bool = true) throws(KernelError) {
        var status = stat()
        if fstat(file.raw, &status) < 0 { throw KernelError("fstat") }
        if status.st_size < off_t(bytes) || bytes <= 0 { throw KernelError("map of a short memory file", EINVAL) }
        let address = mmap(nil, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, file.raw, 0)
        guard let address, address != MAP_FAILED else { throw KernelError("mmap") }
        self.file = file
        self.base = address
        self.count = bytes
    }

    deinit { munmap(base, count) }

    /// The descriptor, for passing on; it stays this object's.
    public var descriptor: Int32 { file.raw }

    public var bytes: UnsafeMutableRawBufferPointer { UnsafeMutableRawBufferPointer(start: base, count: count) }
}
