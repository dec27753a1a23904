import CLinux
import Kernel

/// A fixed number of slots that threads take and give back without a lock. The lowest free one is taken, so that few slots'
/// memory is in use, and that memory is warm. Safe on any thread.
struct SlotSet: ~Copyable, @unchecked Sendable {
    /// One bit per slot, set while it is taken; the bits beyond the limit stay set.
    private let words: UnsafeMutablePointer<UInt64>
    private let wordCount: Int
    /// How many threads wait for a slot, and the futex word that counts wake-ups for them.
    private let waiters: UnsafeMutablePointer<UInt32>
    private let sequence: UnsafeMutablePointer<UInt32>
    /// The words as they are when no slot is taken.
    private let unused: UnsafeMutablePointer<UInt64>

    init(capacity: Int) {
        wordCount = (capacity + 63) / 64
        words = .allocate(capacity: wordCount)
        unused = .allocate(capacity: wordCount)
        waiters = .allocate(capacity: 1)
        waiters.initialize(to: 0)
        sequence = .allocate(capacity: 1)
        sequence.initialize(to: 0)
        restrict(to: capacity)
    }

    deinit {
        words.deallocate()
        unused.deallocate()
        waiters.deallocate()
        sequence.deallocate()
    }

    /// Offers only the first `limit` slots, at most `capacity`. Before the first is taken.
    borrowing func restrict(to limit: Int) {
        for index in 0..<wordCount {
            let here = min(max(limit - index * 64, 0), 64)
            unused[index] = here == 64 ? 0 : UInt64.max << UInt64(here)
            words[index] = unused[index]
        }
    }

    /// The lowest free slot, now the caller's; nil when all are taken. Cost: one atomic exchange.
    @inline(__always)
    borrowing func take() -> Int? {
        for index in 0..<wordCount {
            var taken = lego_atomic_load_u64(words + index)
            while taken != .max {
                let bit = (~taken).trailingZeroBitCount
                if lego_atomic_compare_exchange_u64(words + index, &taken, taken | 1 << UInt64(bit)) {
                    return index * 64 + bit
                }
            }
        }
        return nil
    }

    /// Waits until a slot may be free, somebody called `wakeAll`, or the deadline. Answers false at the deadline.
    @inline(never)
    borrowing func waitForChange(until deadline: Deadline, orWhen gone: () -> Bool) -> Bool {
        _ = lego_atomic_add_u32(waiters, 1)
        defer { _ = lego_atomic_add_u32(waiters, .max) }
        let seen = lego_atomic_load_u32(sequence)
        // A slot that was given back before `waiters` could be seen shows here; one given back later changes the sequence.
        if hasFree || gone() { return true }
        if deadline.hasPassed { return false }
        Futex.wait(sequence, while: seen, until: deadline)
        return true
    }

    private var hasFree: Bool {
        for index in 0..<wordCount where lego_atomic_load_u64(words + index) != .max { return true }
        return false
    }

    /// Gives a slot back that the caller took.
    @inline(__always)
    borrowing func give(_ slot: Int) {
        let word = words + slot / 64
        let bit = UInt64(1) << UInt64(slot % 64)
        var taken = lego_atomic_load_u64(word)
        while !lego_atomic_compare_exchange_u64(word, &taken, taken & ~bit) {}
        if lego_atomic_load_u32(waiters) != 0 {
            _ = lego_atomic_add_u32(sequence, 1)
            Futex.wake(sequence)
        }
    }

    /// Lets every waiting thread look again.
    borrowing func wakeAll() {
        _ = lego_atomic_add_u32(sequence, 1)
        Futex.wake(sequence, count: .max)
    }

    /// Whether no slot is taken.
    var isIdle: Bool {
        for index in 0..<wordCount where lego_atomic_load_u64(words + index) != unused[index] { return false }
        return true
    }
}
