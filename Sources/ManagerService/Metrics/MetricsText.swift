/// Metrics in Prometheus' text format (version 0.0.4).
struct MetricsText {
    static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    enum Kind: String { case counter, gauge }
    typealias Labels = [(name: String, value: String)]

    private(set) var text = ""

    /// One metric with its samples. `help` is one line.
    mutating func add(_ name: String, _ kind: Kind, help: String, _ samples: [(labels: Labels, value: UInt64)]) {
        text += "# HELP \(name) \(help)\n# TYPE \(name) \(kind.rawValue)\n"
        for (labels, value) in samples {
            text += name
            if !labels.isEmpty {
                text += "{" + labels.map { "\($0.name)=\"\(Self.escaped($0.value))\"" }.joined(separator: ",") + "}"
            }
            text += " \(value)\n"
        }
    }

    /// A metric with one sample.
    mutating func add(_ name: String, _ kind: Kind, help: String, _ value: UInt64) {
        add(name, kind, help: help, [([], value)])
    }

    private static func escaped(_ value: String) -> String {
        value.replacing("\\", with: "\\\\").replacing("\"", with: "\\\"").replacing("\n", with: "\\n")
    }
}
