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
        for _ in 0..<placements where bytes >= hugePageBytes {
            let place = try alignedPlace(for: bytes)
            let base = mmap(place, bytes, protection, MAP_SHARED | MAP_FIXED_NOREPLACE, file, 0)
            if let base, base != MAP_FAILED { return base }
            if errno != EEXIST { throw KernelError("mmap") }
        }
        let base = mmap(nil, bytes, protection, MAP_SHARED, file, 0)
        guard let base, base != MAP_FAILED else { throw KernelError("mmap") }
        return base
    }

    /// How often a place that another thread has taken meanwhile is looked for again. A mapping elsewhere works as well.
    private static let placements = 8

    /// A multiple of the huge page size where `bytes` are free at this moment. It is not kept reserved: MAP_FIXED over a
    /// reservation drops it before the file may refuse to be mapped (mm/mmap.c; hugetlbfs does when it has no pages), and
    /// whatever another thread has put there since would go with the rest of the reservation.
    private static func alignedPlace(for bytes: Int) throws(KernelError) -> UnsafeMutableRawPointer {
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
        let room = mmap(nil, bytes + hugePageBytes, PROT_NONE, flags, -1, 0)
        guard let room, room != MAP_FAILED else { throw KernelError("mmap") }
        munmap(room, bytes + hugePageBytes)
        return room.alignedUp(toMultipleOf: hugePageBytes)
    }

    private static var hugePageBytes: Int { 2 << 20 }

    deinit { munmap(base, count) }

    /// The descriptor, for passing on; it stays this object's.
    public var descriptor: Int32 { file.raw }

    public var bytes: UnsafeMutableRawBufferPointer { UnsafeMutableRawBufferPointer(start: base, count: count) }
}
