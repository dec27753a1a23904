import Glibc

/// A bounded queue of bytes in one piece of memory that is taken at the start. Owned by one thread.
struct ByteQueue: ~Copyable {
    private let memory: UnsafeMutableRawBufferPointer
    private var head = 0
    private var tail = 0

    init(capacity: Int) { memory = .allocate(byteCount: capacity, alignment: 16) }

    deinit { memory.deallocate() }

    var isEmpty: Bool { head == tail }
    var count: Int { tail - head }
    /// Bytes that can be added.
    var room: Int { memory.count - count }

    /// What is queued, in order. Valid until the next change.
    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: memory[head..<tail]) }

    /// The free memory, in one piece of `room` bytes: write there, then `fill`. Moves what is queued when that is
    /// needed.
    mutating func space() -> UnsafeMutableRawBufferPointer {
        if head > 0 {
            memmove(memory.baseAddress!, memory.baseAddress! + head, count)
            tail -= head
            head = 0
        }
        return UnsafeMutableRawBufferPointer(rebasing: memory[tail...])
    }

    /// Adds the first `count` bytes of `space`.
    mutating func fill(_ count: Int) { tail += count }

    mutating func append(_ added: UnsafeRawBufferPointer) {
        if added.isEmpty { return }
        space().copyMemory(from: added)
        tail += added.count
    }

    mutating func removeFirst(_ count: Int) {
        head += count
        if head == tail {
            head = 0
            tail = 0
        }
    }

    mutating func removeAll() {
        head = 0
        tail = 0
    }
}
