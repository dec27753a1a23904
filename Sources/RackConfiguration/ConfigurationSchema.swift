/// All keys that one configuration file may hold, in the order of the default file.
public struct ConfigurationSchema: Sendable {
    /// What the file is for: one line per element, shown at the top of the default file.
    public let title: [String]
    public let keys: [any ConfigurationKeyDescription]
    /// A comment at the head of a table.
    public let tableComments: [String: String]

    public init(title: [String], keys: [any ConfigurationKeyDescription], tableComments: [String: String] = [:]) {
        self.title = title
        self.keys = keys
        self.tableComments = tableComments
    }

    /// The key that `path` names, wildcards matched.
    package func key(_ path: [String]) -> (any ConfigurationKeyDescription)? {
        keys.first { Self.matches($0.path, path) }
    }

    /// Whether `path` is a table that holds keys or tables.
    package func isTable(_ path: [String]) -> Bool {
        keys.contains { key in
            let parts = key.path.split(separator: ".")
            return parts.count > path.count && zip(parts, path).allSatisfy { $0 == "*" || $0 == $1 }
        }
    }

    private static func matches(_ pattern: String, _ path: [String]) -> Bool {
        let parts = pattern.split(separator: ".")
        return parts.count == path.count && zip(parts, path).allSatisfy { $0 == "*" || $0 == $1 }
    }

    /// All keys, the ones most like `path` first.
    package func keysByLikeness(to path: String) -> [String] { byLikeness(keys.map(\.path), to: path) }

    /// All tables, the ones most like `path` first.
    package func tablesByLikeness(to path: String) -> [String] {
        var tables: [String] = []
        for key in keys {
            let table = key.path.split(separator: ".").dropLast().joined(separator: ".")
            if !tables.contains(table) { tables.append(table) }
        }
        return byLikeness(tables, to: path)
    }

    /// The default file: every key with its explanation, what is allowed and its default.
    public func defaultFile() -> String {
        var lines = title.map { $0.isEmpty ? "#" : "# \($0)" }
        var table = ""
        for key in keys {
            let parts = key.path.split(separator: ".")
            let name = parts.last.map(String.init) ?? key.path
            let parent = parts.dropLast().joined(separator: ".")
            // A table whose name the file chooses has no default: it is shown as an example in comments.
            let isExample = parent.contains("*")
            if parent != table {
                table = parent
                lines.append("")
                if let comment = tableComments[table] { lines += wrapped(comment) }
                lines.append(isExample ? "# [\(table.replacing("*", with: "NAME"))]" : "[\(table)]")
            } else {
                lines.append("")
            }
            lines += wrapped(key.comment)
            lines += wrapped("Allowed: \(key.allowed).")
            lines.append("\(isExample ? "# " : "")\(name) = \(key.defaultLiteral)")
        }
        return lines.joined(separator: "\n") + "\n"
    }
}

/// Breaks a comment into lines of at most 100 columns with `# ` in front.
func wrapped(_ comment: String) -> [String] {
    var lines: [String] = []
    var line = "#"
    for word in comment.split(separator: " ") {
        if line.count + 1 + word.count > 100 {
            lines.append(line)
            line = "#"
        }
        line += " \(word)"
    }
    return lines + [line]
}

/// The candidates, those with the smallest edit distance to `text` first; ties keep their order.
public func byLikeness(_ candidates: [String], to text: String) -> [String] {
    candidates.enumerated()
        .map { (distance: editDistance($0.element, text), offset: $0.offset, text: $0.element) }
        .sorted { ($0.distance, $0.offset) < ($1.distance, $1.offset) }
        .map(\.text)
}

/// Levenshtein's distance in characters; texts longer than 100 characters are compared by their first 100.
func editDistance(_ left: String, _ right: String) -> Int {
    let left = Array(left.prefix(100))
    let right = Array(right.prefix(100))
    var row = Array(0...right.count)
    for (i, character) in left.enumerated() {
        var diagonal = row[0]
        row[0] = i + 1
        for (j, other) in right.enumerated() {
            let substituted = diagonal + (character == other ? 0 : 1)
            diagonal = row[j + 1]
            row[j + 1] = min(substituted, row[j] + 1, row[j + 1] + 1)
        }
    }
    return row[right.count]
}
