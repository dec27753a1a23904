/// How fast a link is to seem: what a rack would be like on other hardware. It adds time and takes none away: nothing
/// becomes faster than the link that is really there.
public struct LinkModel: Hashable, Sendable, CustomStringConvertible {
    /// From posting an operation that carries nothing to its completion, and from sending a message to its arrival, in
    /// nanoseconds.
    public let latency_ns: UInt64
    /// In each direction, in bytes a second.
    public let bytesPerSecond: UInt64

    public static let latencies_ns: ClosedRange<UInt64> = 0...1_000_000_000
    public static let bandwidths: ClosedRange<UInt64> = 1_000_000...10_000_000_000_000

    /// nil when one of the two is out of range.
    public init?(latency_ns: UInt64, bytesPerSecond: UInt64) {
        guard Self.latencies_ns.contains(latency_ns), Self.bandwidths.contains(bytesPerSecond) else { return nil }
        self.latency_ns = latency_ns
        self.bytesPerSecond = bytesPerSecond
    }

    private init(_ latency_ns: UInt64, _ bytesPerSecond: UInt64) {
        self.latency_ns = latency_ns
        self.bytesPerSecond = bytesPerSecond
    }

    /// The links that have names. All but cxl from the table in "Farewell to Servers" (Shan et al., APSys'18 and its
    /// talk); where that gives a range, its slower end.
    public static let presets: [(name: String, model: LinkModel)] = [
        // The local memory bus: 50 to 100 GB/s, about 50 ns.
        ("membus", LinkModel(50, 50_000_000_000)),
        // PCI Express 3.0, 16 lanes: 16 GB/s, about 700 ns.
        ("pcie3x16", LinkModel(700, 16_000_000_000)),
        // InfiniBand EDR: 100 Gbit/s, 500 ns.
        ("edr", LinkModel(500, 12_500_000_000)),
        // InfiniBand HDR: 200 Gbit/s, below 500 ns.
        ("hdr", LinkModel(500, 25_000_000_000)),
        // Gen-Z: 32 to 400 GB/s, below 100 ns.
        ("genz", LinkModel(100, 32_000_000_000)),
        // Younger than the table: a CXL 2.0 memory device behind one switch, some 250 ns; PCI Express 5.0, 8 lanes.
        ("cxl", LinkModel(250, 32_000_000_000)),
    ]

    /// What `init(_:)` takes, for messages.
    public static var allowed: String {
        presets.map(\.name).joined(separator: ", ") + " or custom:NANOSECONDS:BYTES_PER_SECOND"
    }

    /// The name of a preset, or `custom:600:25000000000`; nil for anything else.
    public init?(_ text: String) {
        if let preset = Self.presets.first(where: { $0.name == text }) {
            self = preset.model
            return
        }
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 3, parts[0] == "custom", let latency = Self.number(parts[1]),
            let bandwidth = Self.number(parts[2])
        else { return nil }
        self.init(latency_ns: latency, bytesPerSecond: bandwidth)
    }

    /// Digits only: no sign.
    private static func number(_ text: Substring) -> UInt64? {
        text.utf8.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) } ? UInt64(text) : nil
    }

    /// The text that makes this model.
    public var description: String {
        Self.presets.first { $0.model == self }?.name ?? "custom:\(latency_ns):\(bytesPerSecond)"
    }
}
