/// Finds faults that follow each other at a distance of some pages: a walk down the columns of a matrix, over records that
/// are larger than a page. Sequential ones are `StreamDetector`'s.
///
/// A fault leaves behind where the walk would go on if it came from the fault before it, or the one before that, of the same
/// thread; two walks that alternate are both found. Walks are often short and many, a block of a matrix after the other:
/// a step as long as those of the thread's last walk is taken for the next one's first. Owned by the monitor thread; no
/// allocation after `init`.
struct StrideDetector: ~Copyable {
    /// Most pages of a window, the faulting one included.
    static let window_max = 16
    /// That of a walk's second fault where its stride is known. A power of two.
    private static let knownWindow = 8
    /// Pages of the longest stride.
    private static let stride_max = 64
    private static let expectedBits: UInt64 = 10
    private static let threadBits: UInt64 = 6
    /// How many faults ago an expectation may have been left.
    private static let age_max: UInt64 = 256

    /// `page | (stride + stride_max) << 36 | log2(window) << 44 | time << 48`.
    private let expected: UnsafeMutablePointer<UInt64>
    /// What is known of threads, by their number modulo the table's size.
    private let threads: UnsafeMutablePointer<Recent>
    private var time: UInt64 = 0
    /// What the pages are worth that it brings.
    var ghosts = GhostSampler()

    /// The last two faults of a thread, and the stride of its last walk; 0: none.
    private struct Recent {
        var page: UInt64 = 0
        var before: UInt64 = 0
        var stride = 0
    }

    struct Run {
        var stride: Int
        /// Pages to bring after the faulting one.
        var count: Int
    }

    init() {
        expected = .allocate(capacity: 1 << Int(Self.expectedBits))
        expected.initialize(repeating: 0, count: 1 << Int(Self.expectedBits))
        threads = .allocate(capacity: 1 << Int(Self.threadBits))
        threads.initialize(repeating: Recent(), count: 1 << Int(Self.threadBits))
    }

    deinit {
        expected.deallocate()
        threads.deallocate()
    }

    /// Takes note of a fault on a remote page; answers what to bring besides.
    mutating func fault(_ page: UInt64, thread: Int32) -> Run {
        time &+= 1
        ghosts.fault(page)
        let place = expected + PageHash.slot(page, Self.expectedBits)
        let found = place.pointee
        let recent = threads + Int(thread & (1 << Int32(Self.threadBits) - 1))
        defer { (recent.pointee.page, recent.pointee.before) = (page, recent.pointee.page) }
        guard page != 0 else { return Run(stride: 0, count: 0) }
        if found & 0xf_ffff_ffff == page, (time &- found >> 48) & 0xffff <= Self.age_max {
            place.pointee = 0
            recent.pointee.stride = Int(found >> 36 & 0xff) - Self.stride_max
            return run(page, recent.pointee.stride, window: min(2 << Int(found >> 44 & 15), Self.window_max))
        }
        let step = Int(page) - Int(recent.pointee.page)
        if step != 0 && step == recent.pointee.stride { return run(page, step, window: Self.knownWindow) }
        // Next to the last one: a stream, of which every other page is no walk of its own.
        if step.magnitude != 1 {
            expect(page, from: recent.pointee.page)
            expect(page, from: recent.pointee.before)
        }
        return Run(stride: 0, count: 0)
    }

    private mutating func run(_ page: UInt64, _ stride: Int, window: Int) -> Run {
        expect(page, stride, after: window, window: window)
        return Run(stride: stride, count: window - 1)
    }

    private mutating func expect(_ page: UInt64, from before: UInt64) {
        let stride = Int(page) - Int(before)
        if stride.magnitude <= Self.stride_max && stride.magnitude > 1 { expect(page, stride, after: 1, window: 1) }
    }

    private mutating func expect(_ page: UInt64, _ stride: Int, after: Int, window: Int) {
        let next = Int(page) + stride * after
        if next <= 0 || next >= Int(Page.count_max) { return }
        expected[PageHash.slot(UInt64(next), Self.expectedBits)] =
            UInt64(next) | UInt64(stride + Self.stride_max) << 36 | UInt64(window.trailingZeroBitCount) << 44
            | (time & 0xffff) << 48
    }
}
