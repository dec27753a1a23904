import Kernel
import Synchronization

/// Hands out parts of a node's registered pool, which are the local ends of one-sided transfers. Allocation is for
/// start-up and shut-down: first fit, O(free parts). Any thread.
public final class PoolAllocator: Sendable {
    private struct FreeList {
        /// Offsets and lengths in bytes, ascending; neighbours are merged.
        var parts: [(offset: Int, bytes: Int)]
    }
    private let base: UInt
    private let free: Mutex<FreeList>

    public init(pool: UnsafeMutableRawBufferPointer) {
        base = UInt(bitPattern: pool.baseAddress)
        free = Mutex(FreeList(parts: pool.isEmpty ? [] : [(0, pool.count & ~4095)]))
    }

    /// A page-aligned part of at least `bytes`, or nil when no free part is that long.
    public func allocate(bytes: Int) -> UnsafeMutableRawBufferPointer? {
        let wanted = (bytes + 4095) & ~4095
        if wanted <= 0 { return nil }
        let offset: Int? = free.withLock { list in
            guard let index = list.parts.firstIndex(where: { $0.bytes >= wanted }) else { return nil }
            let offset = list.parts[index].offset
            list.parts[index].offset += wanted
            list.parts[index].bytes -= wanted
            if list.parts[index].bytes == 0 { list.parts.remove(at: index) }
            return offset
        }
        guard let offset else { return nil }
        return UnsafeMutableRawBufferPointer(
            start: UnsafeMutableRawPointer(bitPattern: base + UInt(offset)), count: wanted)
    }

    /// Gives a part back that `allocate` answered. Nothing may be under way on it any more.
    public func deallocate(_ part: UnsafeMutableRawBufferPointer) {
        let offset = Int(UInt(bitPattern: part.baseAddress) - base)
        free.withLock { list in
            let index = list.parts.firstIndex { $0.offset > offset } ?? list.parts.count
            list.parts.insert((offset, part.count), at: index)
            if index + 1 < list.parts.count, offset + part.count == list.parts[index + 1].offset {
                list.parts[index].bytes += list.parts[index + 1].bytes
                list.parts.remove(at: index + 1)
            }
            if index > 0, list.parts[index - 1].offset + list.parts[index - 1].bytes == offset {
                list.parts[index - 1].bytes += list.parts[index].bytes
                list.parts.remove(at: index)
            }
        }
    }
}
