import CLinux
import Glibc
import Kernel
import Synchronization

/// Where a remote address lies for this process.
enum Resolution {
    case here(UnsafeMutableRawPointer)
    /// Bad key, out of bounds or wrong rights.
    case refused
    /// The region's memory file must be fetched first.
    case unmapped
    /// The region is no memory file: its owner's device must do it.
    case served
}

/// Another soft device on this host, as the queue pairs to it see it: its region table, mapped read-only, and the
/// regions that have been mapped on first use. Shared by all pairs between the two devices.
final class PeerDevice: @unchecked Sendable {
    private struct Mapping {
        /// Written last, cleared first. 0: none.
        var key: UInt32
        var base: UnsafeMutableRawPointer?
        var count: Int
        /// `count`, or more where the file's pages are larger.
        var mappedBytes: Int
    }

    let instance: InstanceID
    private let tableFile: MemoryFile
    private let table: RegionTableView
    /// Wakes the peer device's thread.
    private let wake: Descriptor
    /// Written by this device's thread alone. A slot's old mapping is out of use when a new key appears in its place,
    /// since the peer's deregistration has waited for every access with the old one.
    private let mappings: UnsafeMutablePointer<Mapping>

    init(instance: InstanceID, table: consuming Descriptor, wake: consuming Descriptor) throws(FabricError) {
        self.instance = instance
        tableFile = try SharedFile.map(table, bytes: RegionEntry.tableBytes, writable: false)
        self.table = RegionTableView(base: tableFile.base)
        self.wake = wake
        mappings = .allocate(capacity: RegionEntry.slots_max)
        mappings.initialize(
            repeating: Mapping(key: 0, base: nil, count: 0, mappedBytes: 0), count: RegionEntry.slots_max)
    }

    deinit {
        for slot in 0..<RegionEntry.slots_max {
            if let base = mappings[slot].base { munmap(base, mappings[slot].mappedBytes) }
        }
        mappings.deallocate()
    }

    /// Finds a remote address. The caller's activity word is odd, and stays so while it uses the answer.
    @inline(__always)
    func resolve(_ key: UInt32, address: UInt64, count: Int, access: RemoteAccess) -> Resolution {
        guard let entry = table.entry(key), RegionTableView.allows(entry, access),
            RegionTableView.covers(entry, address: address, count: UInt64(count))
        else { return .refused }
        let flags = entry.load(fromByteOffset: RegionEntry.flags, as: UInt32.self)
        if flags & RegionEntry.isMappable == 0 { return .served }
        let mapping = mappings + RegionEntry.slot(of: key)
        let mapped = UnsafeMutableRawPointer(mapping).assumingMemoryBound(to: UInt32.self)
        guard lego_atomic_load_u32(mapped) == key, let base = mapping.pointee.base else { return .unmapped }
        let offset = address &- entry.load(fromByteOffset: RegionEntry.base, as: UInt64.self)
        // The table is the peer's: what was really mapped bounds the access.
        guard UInt64(count) <= UInt64(mapping.pointee.count), offset <= UInt64(mapping.pointee.count &- count) else {
            return .refused
        }
        return .here(base + Int(offset))
    }

    /// Maps a region's memory file. On this device's thread.
    func install(_ key: UInt32, file: consuming Descriptor) throws(FabricError) {
        // Another pair may have asked for it as well; its mapping is in use.
        if mappings[RegionEntry.slot(of: key)].key == key { return }
        guard let entry = table.entry(key) else { return }
        let length = entry.load(fromByteOffset: RegionEntry.length, as: UInt64.self)
        let writable = RegionTableView.allows(entry, .write) || RegionTableView.allows(entry, .atomic)
        guard length > 0, length <= 1 << 46 else { throw .protocolViolation("a region of \(length) bytes") }
        let (base, mappedBytes) = try SharedFile.mapRaw(file, bytes: Int(length), writable: writable)
        forget(slot: RegionEntry.slot(of: key))
        let mapping = mappings + RegionEntry.slot(of: key)
        mapping.pointee.base = base
        mapping.pointee.count = Int(length)
        mapping.pointee.mappedBytes = mappedBytes
        lego_atomic_store_u32(UnsafeMutableRawPointer(mapping).assumingMemoryBound(to: UInt32.self), key)
    }

    /// Gives a deregistered region's memory back. On this device's thread.
    func forget(_ key: UInt32) {
        let slot = RegionEntry.slot(of: key)
        // The peer says so after it has waited for every access with this key; its table must agree.
        if mappings[slot].key == key, table.entry(key) == nil { forget(slot: slot) }
    }

    private func forget(slot: Int) {
        let mapping = mappings + slot
        lego_atomic_store_u32(UnsafeMutableRawPointer(mapping).assumingMemoryBound(to: UInt32.self), 0)
        if let base = mapping.pointee.base { munmap(base, mapping.pointee.mappedBytes) }
        mapping.pointee.base = nil
    }

    /// Wakes the peer device's thread: a sender that waits there can go on.
    func signal() {
        var one: UInt64 = 1
        _ = write(wake.raw, &one, 8)
    }
}

/// Memory files that came from another process.
enum SharedFile {
    /// Maps a file whose size is sealed: one that could shrink under the mapping would raise SIGBUS here.
    static func map(_ file: consuming Descriptor, bytes: Int, writable: Bool = true) throws(FabricError) -> MemoryFile {
        guard lego_memfd_is_fixed(file.raw) == 1 else { throw .protocolViolation("a memory file that can shrink") }
        do throws(KernelError) {
            return try MemoryFile(mapping: file, bytes: bytes, writable: writable)
        } catch {
            throw .system(error)
        }
    }

    /// As `map`, for a mapping that outlives its descriptor.
    static func mapRaw(_ file: consuming Descriptor, bytes: Int, writable: Bool) throws(FabricError)
        -> (base: UnsafeMutableRawPointer, mappedBytes: Int)
    {
        guard lego_memfd_is_fixed(file.raw) == 1 else { throw .protocolViolation("a memory file that can shrink") }
        var status = stat()
        guard fstat(file.raw, &status) == 0, status.st_size >= bytes else {
            throw .protocolViolation("a memory file that is shorter than its region")
        }
        // A file of huge pages is mapped in whole ones.
        let block = max(4096, Int(status.st_blksize))
        let whole = block <= HugePages.bytes ? (bytes + block - 1) / block * block : bytes
        let mappedBytes = whole <= Int(status.st_size) ? whole : bytes
        do throws(KernelError) {
            return (try MemoryFile.map(file.raw, bytes: mappedBytes, writable: writable), mappedBytes)
        } catch {
            throw .system(error)
        }
    }
}
