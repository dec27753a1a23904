import Testing
import Wire

/// A message of any type and the bytes that it must have.
struct MessageSample: Sendable, CustomTestStringConvertible {
    let name: String
    let golden: [UInt8]
    /// Encodes the message into a buffer; nil when it does not fit.
    let encode: @Sendable (UnsafeMutableRawBufferPointer) -> Int?
    /// Whether bytes decode to exactly this message.
    let isDecoded: @Sendable (UnsafeRawBufferPointer) -> Bool
    /// Decodes bytes as a message of this type and encodes what came out; nil when they are refused.
    let roundTrip: @Sendable ([UInt8]) -> [UInt8]?

    var testDescription: String { name }

    init<Message: WireMessage & Equatable>(_ name: String, _ message: Message, _ golden: String) {
        self.name = name
        self.golden = Self.bytes(ofHexadecimal: golden)
        encode = { message.encode(into: $0) }
        isDecoded = { Message(decoding: $0) == message }
        roundTrip = { bytes in
            guard let decoded = bytes.withUnsafeBytes({ Message(decoding: $0) }) else { return nil }
            return Self.encoded(decoded, capacity: bytes.count)
        }
    }

    /// The bytes of a message; empty when they are more than `capacity`.
    static func encoded(_ message: some WireMessage, capacity: Int) -> [UInt8] {
        Array(unsafeUninitializedCapacity: capacity) { buffer, count in
            count = message.encode(into: UnsafeMutableRawBufferPointer(buffer)) ?? 0
        }
    }

    static func bytes(ofHexadecimal text: String) -> [UInt8] {
        let digits = text.utf8.map { UInt8($0 > 0x39 ? $0 - 0x57 : $0 - 0x30) }
        return stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
    }
}

/// A small generator with a seed, so that a failure can be had again.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var word = state
        word = (word ^ (word >> 30)) &* 0xBF58_476D_1CE4_E5B9
        word = (word ^ (word >> 27)) &* 0x94D0_49BB_1331_11EB
        return word ^ (word >> 31)
    }
}
