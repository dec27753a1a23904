import Glibc

/// A request that goes through a link model.
struct PacedEntry {
    var id: UInt64
    var remoteAddress: UInt64
    var operand: UInt64
    var swap: UInt64
    var remoteKey: UInt32
    var immediate: UInt32
    var opcode: WorkOpcode
    var isSignaled: Bool
    var isInline: Bool
    var elementCount: Int
    /// When its time on the link is over.
    var due: UInt64
    // Once the device has completed it:
    var status = WorkStatus.success
    var count: UInt32 = 0

    /// Whether the peer's processor hears of it, and so must not do so early.
    var isMessage: Bool { opcode == .send || opcode == .writeWithImmediate }
}

/// The requests of one queue pair that have not been reported yet, in order: copies that live until then. Capacity is
/// taken at creation. Indices only grow; the caller guards everything by its lock.
struct PacedQueue: ~Copyable {
    let capacity: Int
    private let elements_max: Int
    private let inline_max: Int
    private let entries: UnsafeMutablePointer<PacedEntry>
    private let elements: UnsafeMutablePointer<ScatterElement>
    private let inlineBytes: UnsafeMutableRawPointer
    /// More elements than any request may have: for one that has more, which the device is to refuse.
    private let tooMany: UnsafeMutablePointer<ScatterElement>
    private(set) var end = 0
    var first = 0

    init(_ parameters: QueuePairParameters) {
        capacity = parameters.sendRequests_max
        elements_max = parameters.scatterElements_max
        inline_max = parameters.inlineBytes_max
        entries = .allocate(capacity: capacity)
        elements = .allocate(capacity: capacity * elements_max)
        inlineBytes = .allocate(byteCount: max(1, capacity * inline_max), alignment: 16)
        tooMany = .allocate(capacity: elements_max + 1)
        tooMany.initialize(
            repeating: ScatterElement(address: inlineBytes, count: 0, localKey: 0), count: elements_max + 1)
    }

    deinit {
        entries.deallocate()
        elements.deallocate()
        inlineBytes.deallocate()
        tooMany.deallocate()
    }

    var isFull: Bool { end &- first >= capacity }
    var isEmpty: Bool { end == first }

    subscript(_ index: Int) -> UnsafeMutablePointer<PacedEntry> { entries + index % capacity }

    /// Copies a request to the end, inline bytes too. There is room.
    mutating func append(_ request: borrowing WorkRequest, bytes: Int, due: UInt64) {
        let local = request.local
        let copy = elements + end % capacity &* elements_max
        var elementCount = min(local.count, elements_max + 1)
        if local.count <= elements_max {
            for position in 0..<local.count { copy[position] = local[position] }
        }
        // What is too long for it stays where it is, for the device to refuse.
        if request.isInline, local.count <= elements_max, bytes <= inline_max, bytes > 0 {
            let place = inlineBytes + end % capacity &* inline_max
            var offset = 0
            for element in local where element.count > 0 {
                memcpy(place + offset, element.address, Int(element.count))
                offset &+= Int(element.count)
            }
            copy[0] = ScatterElement(address: place, count: bytes, localKey: 0)
            elementCount = 1
        }
        self[end].initialize(
            to: PacedEntry(
                id: request.id, remoteAddress: request.remoteAddress, operand: request.operand, swap: request.swap,
                remoteKey: request.remoteKey, immediate: request.immediate, opcode: request.opcode,
                isSignaled: request.isSignaled, isInline: request.isInline, elementCount: elementCount, due: due))
        end &+= 1
    }

    /// The request at an index as the device gets it: under another number, and always with a completion.
    func request(_ index: Int, id: UInt64) -> WorkRequest {
        let entry = self[index].pointee
        let list = entry.elementCount > elements_max ? tooMany : elements + index % capacity &* elements_max
        var request = WorkRequest(entry.opcode, local: UnsafeBufferPointer(start: list, count: entry.elementCount))
        request.id = id
        request.remoteAddress = entry.remoteAddress
        request.remoteKey = entry.remoteKey
        request.immediate = entry.immediate
        request.operand = entry.operand
        request.swap = entry.swap
        request.isInline = entry.isInline
        return request
    }
}
