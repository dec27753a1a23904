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
        let address = try Self.map(file.raw, bytes: bytes, writable: writable)
        self.file = file
        self.base = address
        self.count = bytes
    }

    /// Maps a memory file: a large one where huge pages of it can be mapped as what they are, at a multiple of their size.
    public static func map(_ file: Int32, bytes: Int, writable: Bool) throws(KernelError) -> UnsafeMutableRawPointer {
        let protection = writable ? PROT_READ | PROT_WRITE : PROT_READ
        var place: UnsafeMutableRawPointer?
        var reserved: UnsafeMutableRawPointer?
        let whole = (bytes + hugePageBytes - 1) & ~(hugePageBytes - 1)
        if bytes >= hugePageBytes {
            let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
            reserved = mmap(nil, whole + hugePageBytes, PROT_NONE, flags, -1, 0)
            guard let reserved, reserved != MAP_FAILED else { throw KernelError("mmap") }
            place = reserved.alignedUp(toMultipleOf: hugePageBytes)
        }
        let base = mmap(place, bytes, protection, place == nil ? MAP_SHARED : MAP_SHARED | MAP_FIXED, file, 0)
        guard let base, base != MAP_FAILED else {
            let error = KernelError("mmap")
            if let reserved { munmap(reserved, whole + hugePageBytes) }
            throw error
        }
        if let reserved {
            let before = base - reserved
            // What a file of huge pages takes of the reservation is whole ones.
            if before > 0 { munmap(reserved, before) }
            munmap(base + whole, hugePageBytes - before)
        }
        return base
    }

    private static var hugePageBytes: Int { 2 << 20 }

    deinit { munmap(base, count) }

    /// The descriptor, for passing on; it stays this object's.
    public var descriptor: Int32 { file.raw }

    public var bytes: UnsafeMutableRawBufferPointer { UnsafeMutableRawBufferPointer(start: base, count: count) }
}
