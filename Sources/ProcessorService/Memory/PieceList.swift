import Lite

/// The pieces of one transfer, a page each; pages that lie one behind the other at both ends are one piece. Owned by
/// whoever transfers.
struct PieceList: ~Copyable {
    private let pieces: UnsafeMutablePointer<Transfer>
    private(set) var count = 0

    /// For at most `capacity` pages.
    init(capacity: Int) { pieces = .allocate(capacity: capacity) }

    deinit { pieces.deallocate() }

    var buffer: UnsafeBufferPointer<Transfer> { UnsafeBufferPointer(start: pieces, count: count) }

    @inline(__always)
    mutating func removeAll() { count = 0 }

    @inline(__always)
    mutating func add(_ local: UnsafeMutableRawPointer, _ offset: UInt64) {
        if count > 0 {
            let last = pieces + (count - 1)
            if last.pointee.remoteOffset + UInt64(last.pointee.count) == offset
                && last.pointee.local + last.pointee.count == local
            {
                last.pointee.count += Int(Page.bytes)
                return
            }
        }
        (pieces + count).initialize(to: Transfer(local: local, remoteOffset: offset, count: Int(Page.bytes)))
        count += 1
    }
}
