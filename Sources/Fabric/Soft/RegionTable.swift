import CLinux
import Glibc
import Kernel

/// The layout of a device's table of regions: a memory file that peers on the same host map read-only, so that they
/// check an access as the network adapter would, without this process. An entry is valid while its key is non-zero.
enum RegionEntry {
    static let size = 64
    static let key = 0  // UInt32, written last, cleared first
    static let flags = 4  // UInt32, RemoteAccess and below
    static let base = 8  // UInt64, address in the owner
    static let length = 16  // UInt64, bytes
    /// The region is a memory file of its own, which peers may map.
    static let isMappable: UInt32 = 8

    /// Keys are a slot of the table (low bits) and a generation, so that an old key never opens a new region.
    static let slotBits: UInt32 = 12
    static let slotMask: UInt32 = 1 << slotBits - 1
    /// Regions of one device.
    static let slots_max = 1 << Int(slotBits)
    static let tableBytes = slots_max * size

    @inline(__always)
    static func slot(of key: UInt32) -> Int { Int(key & slotMask) }
}

/// A view of a region table, this device's or a peer's. Looks-ups are safe on any thread.
struct RegionTableView: @unchecked Sendable {
    let base: UnsafeMutableRawPointer

    /// The entry of a key when it is valid. Stays so until the region's deregistration has waited for the caller's
    /// activity word.
    @inline(__always)
    func entry(_ key: UInt32) -> UnsafeMutableRawPointer? {
        let entry = base + RegionEntry.slot(of: key) &* RegionEntry.size
        let stored = lego_atomic_load_u32(entry.assumingMemoryBound(to: UInt32.self))
        return stored == key && key != 0 ? entry : nil
    }

    /// Whether `count` bytes at `address` lie inside the region of `key`: for local elements.
    @inline(__always)
    func contains(_ key: UInt32, address: UInt64, count: UInt64) -> Bool {
        guard let entry = entry(key) else { return false }
        return Self.covers(entry, address: address, count: count)
    }

    /// Whether all elements of a local list lie in registered memory.
    @inline(__always)
    func allLocal(_ elements: UnsafeMutablePointer<ScatterElement>, _ count: Int) -> Bool {
        for index in 0..<count where elements[index].count > 0 {
            let address = UInt64(UInt(bitPattern: elements[index].address))
            guard contains(elements[index].localKey, address: address, count: UInt64(elements[index].count)) else {
                return false
            }
        }
        return true
    }

    @inline(__always)
    static func covers(_ entry: UnsafeMutableRawPointer, address: UInt64, count: UInt64) -> Bool {
        let base = entry.load(fromByteOffset: RegionEntry.base, as: UInt64.self)
        let length = entry.load(fromByteOffset: RegionEntry.length, as: UInt64.self)
        return address >= base && count <= length && address &- base <= length &- count
    }

    @inline(__always)
    static func allows(_ entry: UnsafeMutableRawPointer, _ access: RemoteAccess) -> Bool {
        entry.load(fromByteOffset: RegionEntry.flags, as: UInt32.self) & UInt32(access.rawValue)
            == UInt32(access.rawValue)
    }
}

/// This device's own table. `insert` and `remove` belong to the holder of the device's lock.
final class RegionTable: @unchecked Sendable {
    let file: MemoryFile
    let view: RegionTableView
    private var generation = UInt32.random(in: 1..<1 << 20)
    private var nextSlot = 0
    private var isTaken = [Bool](repeating: false, count: RegionEntry.slots_max)

    init() throws(KernelError) {
        let descriptor = try Descriptor(
            checking: "memfd_create",
            lego_memfd_create_fixed("lego-regions", UInt64(RegionEntry.tableBytes)))
        file = try MemoryFile(mapping: descriptor, bytes: RegionEntry.tableBytes)
        _ = try checked("fcntl F_ADD_SEALS", lego_memfd_seal_future_writes(file.descriptor))
        view = RegionTableView(base: file.base)
    }

    private func keyWord(_ slot: Int) -> UnsafeMutablePointer<UInt32> {
        (file.base + slot * RegionEntry.size).assumingMemoryBound(to: UInt32.self)
    }

    /// Publishes a region and answers its key: the given one, which an adapter has chosen, or one of its own. nil when
    /// the table is full, or the given key's slot is taken.
    func insert(
        base: UnsafeMutableRawPointer, count: Int, access: RemoteAccess, isMappable: Bool, key given: UInt32? = nil
    ) -> UInt32? {
        guard given != 0, let slot = given.map(RegionEntry.slot(of:)) ?? nextFreeSlot(), !isTaken[slot] else {
            return nil
        }
        isTaken[slot] = true
        let entry = file.base + slot * RegionEntry.size
        let flags = UInt32(access.rawValue) | (isMappable ? RegionEntry.isMappable : 0)
        entry.storeBytes(of: flags, toByteOffset: RegionEntry.flags, as: UInt32.self)
        entry.storeBytes(of: UInt64(UInt(bitPattern: base)), toByteOffset: RegionEntry.base, as: UInt64.self)
        entry.storeBytes(of: UInt64(count), toByteOffset: RegionEntry.length, as: UInt64.self)
        generation = generation % (1 << 20 - 1) + 1
        let key = given ?? generation << RegionEntry.slotBits | UInt32(slot)
        lego_atomic_store_u32(keyWord(slot), key)
        return key
    }

    /// Slots are used in turn, so that a key's slot is not used again soon.
    private func nextFreeSlot() -> Int? {
        for _ in 0..<RegionEntry.slots_max {
            let slot = nextSlot
            nextSlot = (nextSlot + 1) % RegionEntry.slots_max
            if !isTaken[slot] { return slot }
        }
        return nil
    }

    /// Refuses every access that begins from now on. Those under way go on; the slot stays taken until `retire`, before
    /// which the caller waits for them.
    func refuse(_ key: UInt32) {
        lego_atomic_store_u32(keyWord(RegionEntry.slot(of: key)), 0)
        lego_atomic_fence()
    }

    /// Frees the slot of a refused key.
    func retire(_ key: UInt32) { isTaken[RegionEntry.slot(of: key)] = false }
}
