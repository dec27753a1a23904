/// Writes a message into memory that the caller owns: little-endian, unaligned, in declaration order. An overflow is remembered
/// and answered by `finish`; nothing is written past the end. No allocation.
public struct WireWriter {
    @usableFromInline let buffer: UnsafeMutableRawBufferPointer
    @usableFromInline var offset = 0
    @usableFromInline var overflowed = false

    @inlinable
    public init(_ buffer: UnsafeMutableRawBufferPointer) { self.buffer = buffer }

    @inlinable
    public mutating func write<Value: FixedWidthInteger>(_ value: Value) {
        let size = MemoryLayout<Value>.size
        guard offset &+ size <= buffer.count else {
            overflowed = true
            return
        }
        buffer.storeBytes(of: value.littleEndian, toByteOffset: offset, as: Value.self)
        offset &+= size
    }

    @inlinable
    public mutating func write(_ value: Bool) { write(value ? UInt8(1) : 0) }

    /// Bytes as they are, without a length.
    @inlinable
    public mutating func write(raw bytes: UnsafeRawBufferPointer) {
        guard offset &+ bytes.count <= buffer.count else {
            overflowed = true
            return
        }
        if bytes.count > 0 {
            UnsafeMutableRawBufferPointer(rebasing: buffer[offset..<offset &+ bytes.count]).copyMemory(from: bytes)
        }
        offset &+= bytes.count
    }

    /// A 32-bit length and the bytes.
    @inlinable
    public mutating func write(counted bytes: UnsafeRawBufferPointer) {
        write(UInt32(truncatingIfNeeded: bytes.count))
        write(raw: bytes)
    }

    /// A 32-bit length and the text's UTF-8.
    public mutating func write(_ text: String) {
        var text = text
        text.withUTF8 { write(counted: UnsafeRawBufferPointer($0)) }
    }

    /// A 32-bit count and the texts.
    public mutating func write(_ texts: [String]) {
        write(UInt32(truncatingIfNeeded: texts.count))
        for text in texts { write(text) }
    }

    /// The bytes written so far.
    @inlinable public var count: Int { offset }

    /// The length of the message, or nil when it did not fit.
    @inlinable public var finish: Int? { overflowed ? nil : offset }
}

/// Reads a message from bytes that nobody vouches for. A read past the end answers zero (or empty) and is remembered: look at
/// `isValid` once, after the last read. Never traps, never reads outside. No allocation but for texts.
public struct WireReader {
    @usableFromInline let buffer: UnsafeRawBufferPointer
    @usableFromInline var offset = 0
    @usableFromInline var underflowed = false

    @inlinable
    public init(_ buffer: UnsafeRawBufferPointer) { self.buffer = buffer }

    @inlinable
    public mutating func read<Value: FixedWidthInteger>(_ type: Value.Type = Value.self) -> Value {
        let size = MemoryLayout<Value>.size
        guard size <= buffer.count &- offset else {
            underflowed = true
            return 0
        }
        defer { offset &+= size }
        return Value(littleEndian: buffer.loadUnaligned(fromByteOffset: offset, as: Value.self))
    }

    /// A byte that must be 0 or 1.
    @inlinable
    public mutating func readBool() -> Bool {
        let byte = read(UInt8.self)
        if byte > 1 { underflowed = true }
        return byte == 1
    }

    /// The next `count` bytes, in place.
    @inlinable
    public mutating func read(raw count: Int) -> UnsafeRawBufferPointer {
        guard count >= 0, count <= buffer.count &- offset else {
            underflowed = true
            return UnsafeRawBufferPointer(start: nil, count: 0)
        }
        defer { offset &+= count }
        return UnsafeRawBufferPointer(rebasing: buffer[offset..<offset &+ count])
    }

    /// A 32-bit length and as many bytes, in place; more than `max` is invalid.
    @inlinable
    public mutating func readCounted(max: Int) -> UnsafeRawBufferPointer {
        let count = Int(read(UInt32.self))
        guard count <= max else {
            underflowed = true
            return UnsafeRawBufferPointer(start: nil, count: 0)
        }
        return read(raw: count)
    }

    /// A text of at most `max` bytes of valid UTF-8.
    public mutating func readString(max: Int) -> String {
        let bytes = readCounted(max: max)
        guard let text = String(validating: bytes, as: UTF8.self) else {
            underflowed = true
            return ""
        }
        return text
    }

    /// At most `maxCount` texts of at most `max` bytes each.
    public mutating func readStrings(maxCount: Int, max: Int) -> [String] {
        let count = Int(read(UInt32.self))
        // Each text takes at least its length: a count that cannot fit is refused before anything is reserved for it.
        guard count <= maxCount, count <= (buffer.count &- offset) / 4 else {
            underflowed = true
            return []
        }
        var texts: [String] = []
        texts.reserveCapacity(count)
        for _ in 0..<count { texts.append(readString(max: max)) }
        return texts
    }

    /// Marks the message invalid: for a value that the caller found out of range.
    @inlinable public mutating func invalidate() { underflowed = true }

    /// Whether every read so far was inside the message.
    @inlinable public var isValid: Bool { !underflowed }
    /// Whether every read was inside and nothing is left over.
    @inlinable public var isComplete: Bool { !underflowed && offset == buffer.count }
    @inlinable public var remaining: Int { buffer.count &- offset }
}

/// A message with a fixed order of fields. The encoding is part of the product: a golden-bytes test holds each one.
public protocol WireMessage: Sendable {
    func encode(into writer: inout WireWriter)
    /// nil when a field is missing or out of range. Trailing bytes are refused by `init(decoding:)`.
    init?(from reader: inout WireReader)
}

extension WireMessage {
    /// Decodes a whole message: all of the bytes and nothing more.
    public init?(decoding bytes: UnsafeRawBufferPointer) {
        var reader = WireReader(bytes)
        self.init(from: &reader)
        if !reader.isComplete { return nil }
    }

    /// Encodes into `buffer`; answers the length, or nil when it does not fit.
    public func encode(into buffer: UnsafeMutableRawBufferPointer) -> Int? {
        var writer = WireWriter(buffer)
        encode(into: &writer)
        return writer.finish
    }
}
