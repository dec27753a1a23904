/// The head of a frame between two devices over TCP: 52 bytes, little-endian, followed by the payload.
struct StreamFrame {
    static let encodedSize = 52

    enum Kind: UInt8 {
        // Requests; `sequence` numbers them.
        case send = 1
        case write = 2
        case writeImmediate = 3
        case read = 4
        case fetchAdd = 5
        case compareSwap = 6
        // Answers to the request that `sequence` numbers.
        /// It has failed with `status`, and nothing after it counts.
        case refusal = 16
        case readPiece = 17
        case lastReadPiece = 18
        case atomicResult = 19
        /// Tells only what every frame tells: `posted` and `acknowledged`.
        case credit = 20

        var isRequest: Bool { rawValue < Self.refusal.rawValue }
        var isAnswer: Bool { !isRequest && self != .credit }
    }

    var kind: Kind
    /// Of a refused request.
    var status: WorkStatus = .success
    /// Bytes of payload, or wanted by a read.
    var count: UInt32 = 0
    var key: UInt32 = 0
    var immediate: UInt32 = 0
    var address: UInt64 = 0
    /// The addend, the value to compare with, or the former value in an answer.
    var operand: UInt64 = 0
    var swap: UInt64 = 0
    var sequence: UInt32 = 0
    /// Receives that the sender of the frame has posted since the start, modulo 2^32.
    var posted: UInt32 = 0
    /// All requests of the receiver before this one have succeeded.
    var acknowledged: UInt32 = 0

    init(_ kind: Kind, sequence: UInt32 = 0) {
        self.kind = kind
        self.sequence = sequence
    }

    /// Bytes that follow the head.
    var payloadCount: Int {
        switch kind {
        case .send, .write, .writeImmediate, .readPiece, .lastReadPiece: Int(count)
        default: 0
        }
    }

    func encode(to target: UnsafeMutableRawPointer) {
        target.storeBytes(of: kind.rawValue, toByteOffset: 0, as: UInt8.self)
        target.storeBytes(of: status.rawValue, toByteOffset: 1, as: UInt8.self)
        target.storeBytes(of: 0, toByteOffset: 2, as: UInt16.self)
        target.storeBytes(of: count.littleEndian, toByteOffset: 4, as: UInt32.self)
        target.storeBytes(of: key.littleEndian, toByteOffset: 8, as: UInt32.self)
        target.storeBytes(of: immediate.littleEndian, toByteOffset: 12, as: UInt32.self)
        target.storeBytes(of: address.littleEndian, toByteOffset: 16, as: UInt64.self)
        target.storeBytes(of: operand.littleEndian, toByteOffset: 24, as: UInt64.self)
        target.storeBytes(of: swap.littleEndian, toByteOffset: 32, as: UInt64.self)
        target.storeBytes(of: sequence.littleEndian, toByteOffset: 40, as: UInt32.self)
        target.storeBytes(of: posted.littleEndian, toByteOffset: 44, as: UInt32.self)
        target.storeBytes(of: acknowledged.littleEndian, toByteOffset: 48, as: UInt32.self)
    }

    /// Decodes `encodedSize` bytes; nil when the kind or the status is unknown or the payload larger than a message.
    init?(decoding source: UnsafeRawPointer) {
        guard let kind = Kind(rawValue: source.load(fromByteOffset: 0, as: UInt8.self)),
            let status = WorkStatus(rawValue: source.load(fromByteOffset: 1, as: UInt8.self))
        else { return nil }
        self.kind = kind
        self.status = status
        count = UInt32(littleEndian: source.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
        key = UInt32(littleEndian: source.loadUnaligned(fromByteOffset: 8, as: UInt32.self))
        immediate = UInt32(littleEndian: source.loadUnaligned(fromByteOffset: 12, as: UInt32.self))
        address = UInt64(littleEndian: source.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
        operand = UInt64(littleEndian: source.loadUnaligned(fromByteOffset: 24, as: UInt64.self))
        swap = UInt64(littleEndian: source.loadUnaligned(fromByteOffset: 32, as: UInt64.self))
        sequence = UInt32(littleEndian: source.loadUnaligned(fromByteOffset: 40, as: UInt32.self))
        posted = UInt32(littleEndian: source.loadUnaligned(fromByteOffset: 44, as: UInt32.self))
        acknowledged = UInt32(littleEndian: source.loadUnaligned(fromByteOffset: 48, as: UInt32.self))
        if count > UInt32(SoftLimits.messageBytes_max) { return nil }
    }
}
