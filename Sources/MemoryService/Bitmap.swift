/// A set of small numbers, one bit each. Searches start at the lowest word that can hold a member.
struct Bitmap {
    private var words: [UInt64]
    /// No word below this one has a member.
    private var lowest = 0

    init(count: Int, filled: Bool) {
        words = Array(repeating: filled ? .max : 0, count: (count + 63) / 64)
        if filled, count % 64 != 0 { words[words.count - 1] = (1 << UInt64(count % 64)) - 1 }
    }

    mutating func insert(_ number: Int) {
        words[number / 64] |= 1 << UInt64(number % 64)
        lowest = min(lowest, number / 64)
    }

    func contains(_ number: Int) -> Bool { words[number / 64] & 1 << UInt64(number % 64) != 0 }

    /// Takes up to `count` of the lowest members out and appends them to `taken`.
    mutating func takeFirst(_ count: Int, into taken: inout [UInt32]) {
        var left = count
        while left > 0, lowest < words.count {
            while left > 0, words[lowest] != 0 {
                taken.append(UInt32(lowest * 64 + words[lowest].trailingZeroBitCount))
                words[lowest] &= words[lowest] - 1
                left -= 1
            }
            if words[lowest] == 0 { lowest += 1 }
        }
    }

    /// Takes the lowest member out, and the members that follow it without a gap, at most `limit` in all; nil when
    /// empty.
    mutating func takeRun(atMost limit: Int) -> Range<Int>? {
        while lowest < words.count, words[lowest] == 0 { lowest += 1 }
        if lowest == words.count { return nil }
        let start = lowest * 64 + words[lowest].trailingZeroBitCount
        var end = start
        while end - start < limit, end / 64 < words.count, contains(end) {
            words[end / 64] &= ~(1 << UInt64(end % 64))
            end += 1
        }
        return start..<end
    }
}
