/// Finds the line of each key in a TOML text that the parser has accepted: the parser keeps no positions.
struct KeyLocator {
    private var lines: [String: Int] = [:]

    init(_ text: String) {
        var table = ""
        /// The quotes that end the text that runs over several lines, while inside one.
        var openQuotes: String?
        for (index, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
            let line = line.drop { $0 == " " || $0 == "\t" }
            if let quotes = openQuotes {
                if line.contains(quotes) { openQuotes = nil }
                continue
            }
            if line.hasPrefix("#") { continue }
            if line.hasPrefix("[") {
                let name = line.drop { $0 == "[" }.prefix { $0 != "]" }
                table = Self.normalized(name)
                note(table, line: index + 1)
            } else if let equals = line.firstIndex(of: "=") {
                let key = Self.normalized(line[..<equals])
                note(table.isEmpty ? key : "\(table).\(key)", line: index + 1)
                for quotes in ["\"\"\"", "'''"] where Self.occurrences(of: quotes, in: line[equals...]) == 1 {
                    openQuotes = quotes
                }
            }
        }
    }

    private mutating func note(_ path: String, line: Int) {
        if lines[path] == nil { lines[path] = line }
    }

    /// The line of a key, or of the nearest table around it; 1 when the text holds neither.
    func line(of path: [String]) -> Int {
        var path = path
        while !path.isEmpty {
            if let line = lines[path.joined(separator: ".")] { return line }
            path.removeLast()
        }
        return 1
    }

    /// `"memory" . size` as `memory.size`.
    private static func normalized(_ key: Substring) -> String {
        key.split(separator: ".").map { $0.filter { !" \t\"'".contains($0) } }.joined(separator: ".")
    }

    private static func occurrences(of text: String, in line: Substring) -> Int {
        var count = 0
        var rest = line
        while let range = rest.firstRange(of: text) {
            count += 1
            rest = rest[range.upperBound...]
        }
        return count
    }
}
