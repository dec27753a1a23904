import Wire

/// The ranges of a node's sizes; a peer's greeting must lie in them too.
enum LiteLimit {
    /// Even ones carry the calls of one side, odd ones those of the other: there is at least one each way.
    static let queuePairs = 2...16
    static let calls = 1...1024
    static let messageBytes = 256...(2 << 20)
    static let peers = 1...1024
    static let workers = 1...256
    static let workerQueue = 1...(64 << 10)
}

/// Where requests and responses lie in a node's message region for one peer.
///
/// LITE (§5.1) keeps a ring per client and returns its head lazily. Here each call that can be under way has a slot of its own,
/// at the callee for the request and at the caller for the response, both of the same number: the response is what frees the slot,
/// so there is no head to return, a slow handler holds nobody up, and a response that comes after its caller has given up finds
/// its slot still reserved for it. The lowest are taken first; without an adapter, which pins them all, only touched slots take memory.
struct MessageLayout: Equatable {
    /// Calls that can be under way at a time.
    let calls: Int
    /// Longest request or response in bytes, without its header.
    let messageBytes: Int

    /// Bytes from slot to slot; whole cache lines.
    var stride: Int { (MessageHeader.encodedSize + messageBytes + 63) & ~63 }
    func requestOffset(_ slot: Int) -> Int { slot * stride }
    func responseOffset(_ slot: Int) -> Int { (calls + slot) * stride }
    var bytes: Int { 2 * calls * stride }

    /// What both this and another layout have room for.
    func restricted(to other: MessageLayout) -> MessageLayout {
        MessageLayout(calls: min(calls, other.calls), messageBytes: min(messageBytes, other.messageBytes))
    }
}

/// In front of each request and response.
struct MessageHeader: Equatable {
    static let encodedSize = 16

    /// Bytes that follow.
    var count: UInt32
    /// A request: the function. A response: the status, as its bit pattern.
    var word: UInt32
    /// The caller's number for the call; a response repeats it.
    var call: UInt64

    @inline(__always)
    init(count: Int, word: UInt32, call: UInt64) {
        self.count = UInt32(truncatingIfNeeded: count)
        self.word = word
        self.call = call
    }

    /// Reads each field once: the peer can change them at any time.
    @inline(__always)
    init(at address: UnsafeRawPointer) {
        count = UInt32(littleEndian: address.loadUnaligned(as: UInt32.self))
        word = UInt32(littleEndian: address.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
        call = UInt64(littleEndian: address.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
    }

    @inline(__always)
    func store(at address: UnsafeMutableRawPointer) {
        address.storeBytes(of: count.littleEndian, as: UInt32.self)
        address.storeBytes(of: word.littleEndian, toByteOffset: 4, as: UInt32.self)
        address.storeBytes(of: call.littleEndian, toByteOffset: 8, as: UInt64.self)
    }
}

/// The 32 bits that announce a message: its slot, and whether it is a response.
struct MessageImmediate {
    var rawValue: UInt32
    private static let responseBit: UInt32 = 1 << 31

    @inline(__always)
    init(rawValue: UInt32) { self.rawValue = rawValue }
    @inline(__always)
    init(request slot: Int) { rawValue = UInt32(truncatingIfNeeded: slot) }
    @inline(__always)
    init(response slot: Int) { rawValue = UInt32(truncatingIfNeeded: slot) | Self.responseBit }
    @inline(__always)
    var isResponse: Bool { rawValue & Self.responseBit != 0 }
    /// Not yet compared with the number of slots.
    @inline(__always)
    var slot: Int { Int(rawValue & ~Self.responseBit) }
}

/// The `id` of a receive: which queue pair of which link.
struct ReceiveID {
    var rawValue: UInt64
    @inline(__always)
    init(rawValue: UInt64) { self.rawValue = rawValue }
    init(link: Int, generation: UInt32, pair: Int) {
        rawValue = UInt64(link) | UInt64(pair) << 16 | UInt64(generation) << 32
    }
    @inline(__always)
    var link: Int { Int(rawValue & 0xffff) }
    @inline(__always)
    var pair: Int { Int(rawValue >> 16 & 0xffff) }
    /// Tells the links apart that had the same number one after the other.
    @inline(__always)
    var generation: UInt32 { UInt32(truncatingIfNeeded: rawValue >> 32) }
}
