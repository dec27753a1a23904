/// Sizes as people write them: `512MiB`, `1GiB`, `64K`, `1048576`. All units are powers of 1024.
public enum ByteSize {
    private static let units: [(suffixes: [String], shift: UInt64)] = [
        (["", "B"], 0), (["K", "KiB"], 10), (["M", "MiB"], 20), (["G", "GiB"], 30), (["T", "TiB"], 40),
    ]

    /// The bytes that `text` names; nil when it is no size or does not fit into 63 bits.
    public static func parse(_ text: String) -> UInt64? {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        guard let number = UInt64(digits) else { return nil }
        let suffix = String(text.dropFirst(digits.count).drop { $0 == " " })
        guard let unit = units.first(where: { $0.suffixes.contains(suffix) }) else { return nil }
        let (bytes, overflow) = number.multipliedReportingOverflow(by: 1 << unit.shift)
        return overflow || bytes > UInt64(Int64.max) ? nil : bytes
    }

    /// The shortest text that `parse` turns back into exactly `bytes`, e.g. `64MiB`.
    public static func exact(_ bytes: UInt64) -> String {
        for unit in units.reversed() where unit.shift > 0 && bytes > 0 && bytes & (1 << unit.shift - 1) == 0 {
            return "\(bytes >> unit.shift)\(unit.suffixes[1])"
        }
        return String(bytes)
    }

    /// For tables: three significant digits, e.g. `1.50 GiB`, `12.3 MiB`, `256 MiB`, `0 B`.
    public static func readable(_ bytes: UInt64) -> String {
        guard let unit = units.last(where: { bytes >> $0.shift > 0 }), unit.shift > 0 else { return "\(bytes) B" }
        let whole = bytes >> unit.shift
        // A power of ten that leaves three digits in all; binary units reach 1023, which stays whole.
        let scale: UInt64 = whole >= 100 ? 1 : whole >= 10 ? 10 : 100
        let rest = bytes & (1 << unit.shift - 1)
        // `rest * scale` stays below 2^47: no overflow. Truncated, never rounded up past what is there.
        let fraction = (rest * scale) >> unit.shift
        if scale == 1 { return "\(whole) \(unit.suffixes[1])" }
        let digits = String(fraction + scale).dropFirst()
        return "\(whole).\(digits) \(unit.suffixes[1])"
    }
}

/// Spans of time as people write them: `1500ms`, `2s`, `250us`.
public enum TimeSpan {
    private static let units: [(suffix: String, nanoseconds: Int64)] = [
        ("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000), ("min", 60_000_000_000),
    ]

    /// nil when `text` is no span or does not fit into 63 bits of nanoseconds.
    public static func parse(_ text: String) -> Duration? {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        guard let number = Int64(digits) else { return nil }
        let suffix = text.dropFirst(digits.count).drop { $0 == " " }
        guard let unit = units.first(where: { $0.suffix == suffix }) else { return nil }
        let (nanoseconds, overflow) = number.multipliedReportingOverflow(by: unit.nanoseconds)
        return overflow ? nil : .nanoseconds(nanoseconds)
    }

    /// The shortest text that `parse` turns back into `span` (whole nanoseconds, not negative).
    public static func exact(_ span: Duration) -> String {
        let (seconds, attoseconds) = span.components
        let nanoseconds = seconds * 1_000_000_000 + attoseconds / 1_000_000_000
        for unit in units.reversed().dropFirst() where nanoseconds % unit.nanoseconds == 0 {
            return "\(nanoseconds / unit.nanoseconds)\(unit.suffix)"
        }
        return "\(nanoseconds)ns"
    }
}
