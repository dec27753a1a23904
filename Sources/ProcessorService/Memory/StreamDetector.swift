/// Finds sequential streams among the faults of one address space, and says how far ahead to fetch.
///
/// A fault leaves behind which page it expects next, upwards and downwards, in a direct-mapped table: random faults
/// only thin that table out, where a short list of recent streams would be flushed by them. A fault that was expected
/// belongs to a stream: its window doubles, and it is kept in a table of its own. Owned by the monitor thread; no
/// allocation.
struct StreamDetector: ~Copyable {
    /// Pages of the longest window.
    static let window_max = 64
    private static let candidateBits: UInt64 = 12
    private static let streamBits: UInt64 = 8
    /// How many faults ago a candidate may have been left.
    private static let age_max: UInt64 = 1024

    /// `page | isDown << 40 | log2(window) << 41 | time << 48`.
    private let candidates: UnsafeMutablePointer<UInt64>
    private let streams: UnsafeMutablePointer<UInt64>
    private var time: UInt64 = 0

    struct Prediction {
        /// Pages to bring, the faulting one included; 1: no stream.
        var window: Int
        var isDown: Bool
    }

    init() {
        candidates = .allocate(capacity: 1 << Int(Self.candidateBits))
        candidates.initialize(repeating: .max, count: 1 << Int(Self.candidateBits))
        streams = .allocate(capacity: 1 << Int(Self.streamBits))
        streams.initialize(repeating: .max, count: 1 << Int(Self.streamBits))
    }

    deinit {
        candidates.deallocate()
        streams.deallocate()
    }

    private static let pageMask: UInt64 = 1 << 40 - 1

    /// Looks a fault up, and takes its expectation out. Follow it by `expect` or `restart`.
    mutating func predict(_ page: UInt64) -> Prediction {
        time &+= 1
        var place = streams + PageHash.slot(page, Self.streamBits)
        var found = place.pointee
        if found & Self.pageMask != page {
            place = candidates + PageHash.slot(page, Self.candidateBits)
            found = place.pointee
            if found & Self.pageMask != page || (time &- found >> 48) & 0xffff > Self.age_max {
                return Prediction(window: 1, isDown: false)
            }
        }
        place.pointee = .max
        let exponent = min((found >> 41 & 0x7f) + 1, 6)
        return Prediction(window: 1 << Int(exponent), isDown: found >> 40 & 1 != 0)
    }

    /// Whether a stream of this direction is expected to go on at `page`; leaves it as it is.
    func expects(_ page: UInt64, isDown: Bool) -> Bool {
        let found = streams[PageHash.slot(page, Self.streamBits)]
        return found & Self.pageMask == page && (found >> 40 & 1 != 0) == isDown
    }

    /// Records that the stream's next fault is expected at `page`.
    mutating func expect(_ page: UInt64, _ prediction: Prediction) {
        let exponent = UInt64(prediction.window.trailingZeroBitCount)
        streams[PageHash.slot(page, Self.streamBits)] =
            page & Self.pageMask | (prediction.isDown ? 1 << 40 : 0) | exponent << 41 | (time & 0xffff) << 48
    }

    /// Records a fault that belongs to no stream: it may be the first of one.
    mutating func restart(_ page: UInt64) {
        let stamp = (time & 0xffff) << 48
        candidates[PageHash.slot(page + 1, Self.candidateBits)] = (page + 1) & Self.pageMask | stamp
        if page > 0 {
            candidates[PageHash.slot(page - 1, Self.candidateBits)] = (page - 1) & Self.pageMask | 1 << 40 | stamp
        }
    }
}
