import FoundationEssentials
import Glibc
import RackConfiguration
import Wire

/// Writing to the user's terminal or pipe.
enum Output {
    /// Writes all of the text; a reader that has gone ends the command as it would end any other.
    static func write(_ text: String, to descriptor: Int32 = 1) {
        var text = text
        text.withUTF8 { bytes in
            var rest = UnsafeRawBufferPointer(bytes)[...]
            while !rest.isEmpty {
                let count = Glibc.write(descriptor, UnsafeRawBufferPointer(rebasing: rest).baseAddress, rest.count)
                if count > 0 {
                    rest = rest.dropFirst(count)
                } else if errno == EAGAIN {
                    var watched = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                    poll(&watched, 1, -1)
                } else if errno != EINTR {
                    return
                }
            }
        }
    }

    /// One line on standard error, after the command's name.
    static func complain(_ text: String) {
        let line = text.split(whereSeparator: \.isNewline).joined(separator: " ")
        write("legoctl: \(line)\n", to: 2)
    }

    /// On several lines, for people; or on one, where each line is a value.
    static func json<Value: Encodable>(_ value: Value, isLine: Bool = false) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        if !isLine { encoder.outputFormatting.insert(.prettyPrinted) }
        write(String(decoding: try encoder.encode(value), as: UTF8.self) + "\n")
    }

    /// Columns as wide as their widest entry; the last one is not padded. Control characters become `?`, so that a
    /// program's name cannot command the terminal.
    static func table(_ rows: [[String]]) {
        let rows = rows.map { $0.map(printable) }
        var widths: [Int] = []
        for row in rows {
            for (column, cell) in row.enumerated() {
                if column == widths.count { widths.append(0) }
                widths[column] = max(widths[column], cell.count)
            }
        }
        var text = ""
        for row in rows {
            var line = ""
            for (column, cell) in row.enumerated() {
                line += cell
                if column < row.count - 1 { line += String(repeating: " ", count: widths[column] - cell.count + 2) }
            }
            while line.hasSuffix(" ") { line.removeLast() }
            text += line + "\n"
        }
        write(text)
    }

    static func printable(_ text: String) -> String {
        var result = ""
        for scalar in text.unicodeScalars {
            // C0, DEL and C1 control characters.
            if scalar.value < 32 || (127..<160).contains(scalar.value) {
                result += "?"
            } else if let byte = ByteText.byte(scalar) {
                result += "\\x" + String(byte, radix: 16)
            } else {
                result.unicodeScalars.append(scalar)
            }
        }
        return result
    }
}
