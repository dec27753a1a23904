/// Parts of a range of bytes, first fit. Free parts are kept in the order of their addresses and merged. Not safe by
/// itself.
struct ExtentAllocator {
    static let unit: UInt64 = 64

    private struct Extent {
        var offset: UInt64
        var count: UInt64
        var end: UInt64 { offset + count }
    }
    private var free: [Extent]
    private(set) var freeBytes: UInt64

    /// `offset` and `count` are multiples of the unit.
    init(offset: UInt64, count: UInt64) {
        free = count == 0 ? [] : [Extent(offset: offset, count: count)]
        freeBytes = count
    }

    /// Bytes that are taken for so many.
    static func rounded(_ bytes: UInt64) -> UInt64? {
        let (sum, overflow) = bytes.addingReportingOverflow(unit - 1)
        return overflow ? nil : sum & ~(unit - 1)
    }

    /// Takes rounded bytes; nil when no free part is long enough. Cost: a walk over the free parts.
    mutating func take(_ bytes: UInt64) -> UInt64? {
        guard let index = free.firstIndex(where: { $0.count >= bytes }) else { return nil }
        let offset = free[index].offset
        if free[index].count == bytes {
            free.remove(at: index)
        } else {
            free[index].offset += bytes
            free[index].count -= bytes
        }
        freeBytes -= bytes
        return offset
    }

    /// Gives rounded bytes back.
    mutating func give(_ offset: UInt64, _ bytes: UInt64) {
        var low = 0
        var high = free.count
        while low < high {
            let middle = (low + high) / 2
            if free[middle].offset < offset { low = middle + 1 } else { high = middle }
        }
        precondition(low == 0 || free[low - 1].end <= offset, "an extent is given back twice")
        precondition(low == free.count || offset + bytes <= free[low].offset, "an extent is given back twice")
        freeBytes += bytes
        let joinsBefore = low > 0 && free[low - 1].end == offset
        let joinsAfter = low < free.count && offset + bytes == free[low].offset
        switch (joinsBefore, joinsAfter) {
        case (true, true):
            free[low - 1].count += bytes + free[low].count
            free.remove(at: low)
        case (true, false): free[low - 1].count += bytes
        case (false, true):
            free[low].offset = offset
            free[low].count += bytes
        case (false, false): free.insert(Extent(offset: offset, count: bytes), at: low)
        }
    }
}
