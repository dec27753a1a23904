/// Finds faults that follow each other at a distance of some pages: a walk down the columns of a matrix, over records that
/// are larger than a page. Sequential ones are `StreamDetector`'s.
///
/// A fault leaves behind where the walk would go on if it came from the fault before it, or the one before that, of the same
/// thread; two walks that alternate are both found. Walks are often short and many, a block of a matrix after the other:
/// a step as long as those of the thread's last walk is taken for the next one's first. Some go backwards in groups that
/// follow each other forwards, as of a loop over rows that is unrolled: what lies ahead of such is beyond the group's first
/// page, not behind its last. Owned by the monitor thread; no allocation after `init`.
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

    /// Strides from where the last group began, or what was brought for the next ones ends, to where the next one may begin.
    private static let group_max = 16

    /// The last two faults of a thread, and the stride of its last walk; 0: none.
    private struct Recent {
        var page: UInt64 = 0
        var before: UInt64 = 0
        var stride = 0
        /// Walks that may consist of groups: several, because a thread often alternates between two.
        var walks = InlineArray<4, Walk>(repeating: Walk())
        /// Which of them is given up for the next one.
        var oldest = 0

        /// A step of a walk has been seen that began at `first`.
        mutating func walked(_ step: Int, from first: Int, to page: UInt64, _ time: UInt64) {
            stride = step
            for index in walks.indices where walks[index].stride == step && walks[index].isBehind(page) {
                walks[index].lastUse = time
                return
            }
            walks[oldest] = Walk(stride: step, front: first, lastUse: time)
            oldest = (oldest + 1) % walks.count
        }
    }

    /// A walk whose groups, if it has some, follow each other against its stride.
    private struct Walk {
        /// 0: none.
        var stride = 0
        /// The furthest page against the stride that the walk or what was brought for its next groups has reached.
        var front = 0
        /// Pages that are brought ahead of a group; 0: none was seen yet.
        var window = 0
        /// When it was gone on with last.
        var lastUse: UInt64 = 0

        /// How far a page lies beyond the front.
        func beyond(_ page: UInt64) -> Int { stride < 0 ? Int(page) - front : front - Int(page) }
        /// Whether a page is one of those that the walk has reached.
        func isBehind(_ page: UInt64) -> Bool {
            let beyond = beyond(page)
            return beyond <= 0 && -beyond <= 2 * group_max * Int(stride.magnitude)
        }
    }

    struct Run {
        var stride: Int
        /// Pages to bring after the faulting one, and before it.
        var count: Int
        var before = 0
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
        if let run = nextGroup(page, &recent.pointee) { return run }
        if found & 0xf_ffff_ffff == page, (time &- found >> 48) & 0xffff <= Self.age_max {
            place.pointee = 0
            let stride = Int(found >> 36 & 0xff) - Self.stride_max
            recent.pointee.walked(stride, from: Int(page) - 2 * stride, to: page, time)
            return run(page, stride, window: min(2 << Int(found >> 44 & 15), Self.window_max))
        }
        let step = Int(page) - Int(recent.pointee.page)
        if step != 0 && step == recent.pointee.stride {
            recent.pointee.walked(step, from: Int(page) - step, to: page, time)
            return run(page, step, window: Self.knownWindow)
        }
        // Next to the last one: a stream, of which every other page is no walk of its own.
        if step.magnitude != 1 {
            expect(page, from: recent.pointee.page)
            expect(page, from: recent.pointee.before)
        }
        return Run(stride: 0, count: 0)
    }

    /// What to bring where a walk goes on with another group, against its stride; nil where none does.
    private func nextGroup(_ page: UInt64, _ recent: inout Recent) -> Run? {
        for index in recent.walks.indices {
            let walk = recent.walks[index]
            if walk.stride == 0 || time &- walk.lastUse > Self.age_max { continue }
            let pitch = Int(walk.stride.magnitude)
            let beyond = walk.beyond(page)
            if beyond > 0, beyond <= Self.group_max * pitch, walk.window > 0 || Self.isMultiple(beyond, of: pitch) {
                let window = walk.window == 0 ? Self.knownWindow : Self.window_max
                recent.walks[index].window = window
                recent.walks[index].front = Int(page) - walk.stride * window
                recent.walks[index].lastUse = time
                return Run(stride: -walk.stride, count: window, before: (beyond - 1) / pitch)
            }
            // Rows are seldom whole pages: what was brought for these lies a page beside them, and so does what follows.
            if walk.window > 0, walk.isBehind(page) {
                recent.walks[index].lastUse = time
                return Run(stride: -walk.stride, count: -beyond / pitch)
            }
        }
        return nil
    }

    /// Give or take a page, which the length of a row may be more than whole pages.
    private static func isMultiple(_ distance: Int, of pitch: Int) -> Bool {
        let rest = distance % pitch
        return rest <= 1 || rest == pitch - 1
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
