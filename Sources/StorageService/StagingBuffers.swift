import Synchronization
import Wire

/// Buffers in the node's pool through which file data passes, handed out to one request at a time. Never waits: there
/// are as many as workers.
final class StagingBuffers: Sendable {
    static let bytes = StorageLimit.transferBytes_max
    private nonisolated(unsafe) let base: UnsafeMutableRawPointer
    private let count: Int
    /// Free ones, a bit each; `count` is at most 64.
    private let free: Mutex<UInt64>

    /// Takes the whole of `memory`.
    init(_ memory: UnsafeMutableRawBufferPointer, count: Int) {
        self.count = min(count, 64, memory.count / Self.bytes)
        base = memory.baseAddress!
        free = Mutex(self.count == 64 ? .max : (1 << UInt64(self.count)) - 1)
    }

    /// A buffer of `bytes`, or nil when all are taken.
    func take() -> UnsafeMutableRawBufferPointer? {
        let index = free.withLock { bits -> Int in
            let index = bits.trailingZeroBitCount
            if index < 64 { bits &= ~(1 << UInt64(index)) }
            return index
        }
        if index == 64 { return nil }
        return UnsafeMutableRawBufferPointer(start: base + index * Self.bytes, count: Self.bytes)
    }

    func giveBack(_ buffer: UnsafeMutableRawBufferPointer) {
        let index = (buffer.baseAddress! - base) / Self.bytes
        free.withLock { $0 |= 1 << UInt64(index) }
    }
}
