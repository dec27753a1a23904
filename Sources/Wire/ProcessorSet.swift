/// A set of a host's CPUs, as taskset(1) writes it: `0,2-5`.
public struct ProcessorSet: Equatable, Sendable, CustomStringConvertible {
    /// A bit for each CPU, 64 to a word, without words of zeros at the end.
    public private(set) var words: [UInt64]

    public init(words: [UInt64]) {
        self.words = words
        while self.words.last == 0 { self.words.removeLast() }
    }

    /// nil for what is no list, or names a CPU that no rack can have.
    public init?(_ text: String) {
        var words = [UInt64](repeating: 0, count: WireLimit.processorWords_max)
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            let ends = part.split(separator: "-", omittingEmptySubsequences: false)
            guard ends.count <= 2, let first = Self.number(ends[0]), let last = Self.number(ends[ends.count - 1]),
                first <= last, last < words.count * 64
            else { return nil }
            for processor in first...last { words[processor >> 6] |= 1 << UInt64(processor & 63) }
        }
        self.init(words: words)
    }

    private static func number(_ text: Substring) -> Int? {
        text.utf8.allSatisfy { (0x30...0x39).contains($0) } ? Int(text) : nil
    }

    public var isEmpty: Bool { words.isEmpty }
    public var count: Int { words.reduce(0) { $0 + $1.nonzeroBitCount } }

    public func contains(_ processor: Int) -> Bool {
        processor >> 6 < words.count && words[processor >> 6] >> UInt64(processor & 63) & 1 != 0
    }

    public func subtracting(_ other: ProcessorSet) -> ProcessorSet {
        ProcessorSet(words: words.indices.map { words[$0] & ~($0 < other.words.count ? other.words[$0] : 0) })
    }

    public func intersection(_ other: ProcessorSet) -> ProcessorSet {
        ProcessorSet(words: zip(words, other.words).map { $0 & $1 })
    }

    public var description: String {
        var parts: [String] = []
        var processor = 0
        while processor < words.count * 64 {
            if contains(processor) {
                let first = processor
                while contains(processor + 1) { processor += 1 }
                parts.append(first == processor ? "\(first)" : "\(first)-\(processor)")
            }
            processor += 1
        }
        return parts.joined(separator: ",")
    }
}
