/// Arguments, environment and paths are bytes to the kernel; JSON and this rack's messages carry text. Bytes that are not
/// UTF-8 travel as private characters, U+10FF80 for 0x80 to U+10FFFF for 0xFF, and become bytes again where the program
/// is started, as Python's surrogateescape does. Such a character of the original is taken as four single bytes, so that
/// every sequence of bytes has one text, and comes back as it was.
public enum ByteText {
    private static let first: UInt32 = 0x10_FF80
    private static let last: UInt32 = 0x10_FFFF

    /// The text for some bytes. Copies; cost: linear.
    public static func text(_ bytes: UnsafeBufferPointer<UInt8>) -> String {
        if let text = String(validating: bytes, as: UTF8.self), !text.unicodeScalars.contains(where: isEscape) {
            return text
        }
        var text = ""
        var rest = bytes[...]
        while !rest.isEmpty {
            if let scalar = leadingScalar(of: rest), !isEscape(scalar) {
                text.unicodeScalars.append(scalar)
                rest = rest.dropFirst(UTF8.width(scalar))
            } else {
                let byte = rest[rest.startIndex]
                text.unicodeScalars.append(Unicode.Scalar(first + UInt32(byte & 0x7F))!)
                rest = rest.dropFirst()
            }
        }
        return text
    }

    /// The text for a C string.
    public static func text(cString: UnsafePointer<CChar>) -> String {
        var count = 0
        while cString[count] != 0 { count += 1 }
        return cString.withMemoryRebound(to: UInt8.self, capacity: count) {
            text(UnsafeBufferPointer(start: $0, count: count))
        }
    }

    /// The bytes that a text stands for.
    public static func bytes(of text: String) -> [UInt8] {
        if !text.unicodeScalars.contains(where: isEscape) { return Array(text.utf8) }
        var bytes: [UInt8] = []
        for scalar in text.unicodeScalars {
            if isEscape(scalar) {
                bytes.append(UInt8(truncatingIfNeeded: scalar.value - first) | 0x80)
            } else {
                bytes.append(contentsOf: UTF8.encode(scalar)!)
            }
        }
        return bytes
    }

    /// The byte that a character of a text stands for; nil for one that stands for itself.
    public static func byte(_ scalar: Unicode.Scalar) -> UInt8? {
        isEscape(scalar) ? UInt8(truncatingIfNeeded: scalar.value - first) | 0x80 : nil
    }

    private static func isEscape(_ scalar: Unicode.Scalar) -> Bool { (first...last).contains(scalar.value) }

    /// The first character, when the bytes begin with a whole one.
    private static func leadingScalar(of bytes: Slice<UnsafeBufferPointer<UInt8>>) -> Unicode.Scalar? {
        for count in 1...4 where count <= bytes.count {
            if let text = String(validating: bytes.prefix(count), as: UTF8.self) { return text.unicodeScalars.first }
        }
        return nil
    }
}
