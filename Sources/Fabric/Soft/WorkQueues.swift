import CLinux
import Glibc
import Synchronization

/// A posted send-queue request, with all that its execution needs.
struct SendEntry {
    var id: UInt64
    var remoteAddress: UInt64
    var operand: UInt64
    var swap: UInt64
    var remoteKey: UInt32
    var immediate: UInt32
    /// Sum of the local elements, in bytes.
    var count: Int
    var elementCount: Int
    var opcode: WorkOpcode
    var isSignaled: Bool
    /// The elements' bytes are the request's own: no key to check.
    var isInline: Bool
    /// Not `.success` when posting found a fault; the request then completes so at its turn.
    var verdict: WorkStatus
    /// It has failed with `verdict`, and waits for a place in the completion queue.
    var isOver = false

    /// Notes how it has ended, until there is a place for its completion.
    mutating func end(_ status: WorkStatus) {
        verdict = status
        isOver = true
    }
}

/// The send queue: written by the poster, emptied by whoever drives the pair. Capacity is taken at creation; posting
/// copies a request of up to `scatterElements_max` elements and `inlineBytes_max` bytes, and allocates nothing.
struct SendQueue: ~Copyable, @unchecked Sendable {
    private let capacity: Int
    private let mask: Int
    private let elements_max: Int
    private let inline_max: Int
    private let entries: UnsafeMutablePointer<SendEntry>
    private let elements: UnsafeMutablePointer<ScatterElement>
    private let inlineBytes: UnsafeMutableRawPointer
    /// Requests posted; the poster's.
    private let tail = Atomic<Int>(0)
    /// Requests completed; the driver's.
    private let head = Atomic<Int>(0)

    init(_ parameters: QueuePairParameters) {
        capacity = parameters.sendRequests_max
        mask = ringMask(capacity)
        elements_max = parameters.scatterElements_max
        inline_max = parameters.inlineBytes_max
        entries = .allocate(capacity: mask + 1)
        elements = .allocate(capacity: (mask + 1) * elements_max)
        inlineBytes = .allocate(byteCount: max(1, (mask + 1) * inline_max), alignment: 16)
    }

    deinit {
        entries.deallocate()
        elements.deallocate()
        inlineBytes.deallocate()
    }

    var isEmpty: Bool { head.load(ordering: .relaxed) == tail.load(ordering: .acquiring) }

    /// Indices of the oldest request that has not completed, and of the next to be posted. They only grow.
    var first: Int { head.load(ordering: .relaxed) }
    var end: Int { tail.load(ordering: .acquiring) }

    @inline(__always)
    func entry(_ index: Int) -> UnsafeMutablePointer<SendEntry> { entries + index & mask }

    @inline(__always)
    func elements(_ index: Int) -> UnsafeMutablePointer<ScatterElement> { elements + (index & mask) &* elements_max }

    /// Removes the oldest request.
    @inline(__always)
    func retire() { head.store(head.load(ordering: .relaxed) &+ 1, ordering: .releasing) }

    /// What a request comes to: its size, and whether posting finds a fault.
    @inline(__always)
    func entry(of request: borrowing WorkRequest) -> SendEntry {
        var entry = SendEntry(
            id: request.id, remoteAddress: request.remoteAddress, operand: request.operand, swap: request.swap,
            remoteKey: request.remoteKey, immediate: request.immediate, count: 0, elementCount: 0,
            opcode: request.opcode, isSignaled: request.isSignaled, isInline: false, verdict: .success)
        if request.local.count > elements_max {
            entry.verdict = .localProtection
            return entry
        }
        for element in request.local { entry.count &+= Int(element.count) }
        entry.elementCount = request.local.count
        if entry.count > SoftLimits.messageBytes_max {
            entry.verdict = .localLength
        } else if entry.opcode == .fetchAdd || entry.opcode == .compareSwap {
            if entry.count != 8 || entry.elementCount != 1 { entry.verdict = .localLength }
        } else if request.isInline {
            if entry.opcode != .read, entry.count <= inline_max {
                entry.isInline = true
            } else {
                entry.verdict = .localLength
            }
        }
        return entry
    }

    /// Puts an entry with its elements at the end, with a copy of the bytes of an inline one. False when the queue is full. The
    /// poster's thread.
    func append(_ made: SendEntry, _ local: UnsafeBufferPointer<ScatterElement>) -> Bool {
        let index = tail.load(ordering: .relaxed)
        guard index &- head.load(ordering: .acquiring) < capacity else { return false }
        var entry = made
        if entry.isInline {
            copyInline(index, local, &entry)
        } else {
            let copy = elements(index)
            for position in 0..<entry.elementCount { copy[position] = local[position] }
        }
        (entries + index & mask).initialize(to: entry)
        tail.store(index &+ 1, ordering: .releasing)
        return true
    }

    private func copyInline(_ index: Int, _ local: UnsafeBufferPointer<ScatterElement>, _ entry: inout SendEntry) {
        let target = inlineBytes + (index & mask) &* inline_max
        var offset = 0
        for element in local where element.count > 0 {
            memcpy(target + offset, element.address, Int(element.count))
            offset &+= Int(element.count)
        }
        elements(index)[0] = ScatterElement(address: target, count: offset, localKey: 0)
        entry.elementCount = 1
    }
}

/// A posted receive.
struct ReceiveEntry {
    var id: UInt64
    /// Sum of the elements, in bytes.
    var count: Int
    var elementCount: Int
}

/// The receive queue: written by the poster, emptied by whoever matches what arrives.
struct ReceiveQueue: ~Copyable, @unchecked Sendable {
    let capacity: Int
    private let mask: Int
    private let elements_max: Int
    private let entries: UnsafeMutablePointer<ReceiveEntry>
    private let elements: UnsafeMutablePointer<ScatterElement>
    private let tail = Atomic<Int>(0)
    private let head = Atomic<Int>(0)

    init(_ parameters: QueuePairParameters) {
        capacity = parameters.receiveRequests_max
        mask = ringMask(capacity)
        elements_max = parameters.scatterElements_max
        entries = .allocate(capacity: mask + 1)
        elements = .allocate(capacity: (mask + 1) * elements_max)
    }

    deinit {
        entries.deallocate()
        elements.deallocate()
    }

    var isEmpty: Bool { head.load(ordering: .relaxed) == tail.load(ordering: .acquiring) }
    /// Receives posted since the start; only grows.
    var posted: Int { tail.load(ordering: .acquiring) }

    /// The oldest receive, when there is one.
    @inline(__always)
    var first: UnsafeMutablePointer<ReceiveEntry>? {
        let index = head.load(ordering: .relaxed)
        return index == tail.load(ordering: .acquiring) ? nil : entries + index & mask
    }

    @inline(__always)
    var firstElements: UnsafeMutablePointer<ScatterElement> {
        elements + (head.load(ordering: .relaxed) & mask) &* elements_max
    }

    @inline(__always)
    func retire() { head.store(head.load(ordering: .relaxed) &+ 1, ordering: .releasing) }

    /// Answers the index and the size in bytes of the receive that it appended, or nil when the queue is full or the
    /// list too long.
    func append(id: UInt64, local: UnsafeBufferPointer<ScatterElement>) -> (index: Int, count: Int)? {
        let index = tail.load(ordering: .relaxed)
        guard index &- head.load(ordering: .acquiring) < capacity, local.count <= elements_max else { return nil }
        let copy = elements + (index & mask) &* elements_max
        var count = 0
        for position in 0..<local.count {
            copy[position] = local[position]
            count &+= Int(local[position].count)
        }
        (entries + index & mask).initialize(
            to: ReceiveEntry(id: id, count: count, elementCount: local.count))
        tail.store(index &+ 1, ordering: .releasing)
        return (index, count)
    }
}

/// What takes an index to its place in a ring of at least `capacity` places, without a division.
func ringMask(_ capacity: Int) -> Int {
    capacity <= 1 ? 0 : 1 << (Int.bitWidth - (capacity - 1).leadingZeroBitCount) - 1
}

/// What a soft device allows, as a network adapter states in its attributes.
enum SoftLimits {
    /// The largest message, as InfiniBand has it.
    static let messageBytes_max = 1 << 31 - 1
    /// The largest region.
    static let regionBytes_max = 1 << 46
    /// The largest queue.
    static let requests_max = 1 << 14
    static let scatterElements_max = 32
    static let inlineBytes_max = 4096
    static let completions_max = 1 << 22
    /// Private data of a connection request, as the RDMA connection manager has it.
    static let privateData_max = 56
    /// Connection requests that wait for the owner of the device or for the rest of their greeting.
    static let backlog_max = 128
}
