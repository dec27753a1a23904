import Synchronization

/// Hands out parts of a node's registered pool: staging buffers that live as long as a program or a mount. First fit over whole
/// pages. All calls are safe on any thread; none is on a hot path.
public final class PoolAllocator: Sendable {
    private let base: UInt
    /// Free ranges in pages, ascending, never adjacent.
    private let free: Mutex<[Range<Int>]>

    /// `pool` must outlive every part of it.
    public init(pool: UnsafeMutableRawBufferPointer) {
        base = UInt(bitPattern: pool.baseAddress)
        free = Mutex(pool.count >= 4096 ? [0..<pool.count / 4096] : [])
    }

    /// `bytes`, rounded up to whole pages, page-aligned; nil when no free part is that large. Contents are whatever was there.
    public func allocate(bytes: Int) -> UnsafeMutableRawBufferPointer? {
        let pages = (bytes + 4095) / 4096
        if pages <= 0 { return nil }
        let first: Int? = free.withLock { free in
            guard let index = free.firstIndex(where: { $0.count >= pages }) else { return nil }
            let range = free[index]
            if range.count == pages {
                free.remove(at: index)
            } else {
                free[index] = range.lowerBound + pages..<range.upperBound
            }
            return range.lowerBound
        }
        guard let first else { return nil }
        let start = UnsafeMutableRawPointer(bitPattern: base + UInt(first) * 4096)
        return UnsafeMutableRawBufferPointer(start: start, count: pages * 4096)
    }

    /// Takes back what `allocate` handed out, once.
    public func deallocate(_ part: UnsafeMutableRawBufferPointer) {
        let first = Int(UInt(bitPattern: part.baseAddress) - base) / 4096
        var range = first..<first + part.count / 4096
        free.withLock { free in
            var index = free.firstIndex { $0.lowerBound >= range.upperBound } ?? free.count
            if index < free.count, free[index].lowerBound == range.upperBound {
                range = range.lowerBound..<free.remove(at: index).upperBound
            }
            if index > 0, free[index - 1].upperBound == range.lowerBound {
                index -= 1
                range = free.remove(at: index).lowerBound..<range.upperBound
            }
            free.insert(range, at: index)
        }
    }
}
