import CLinux

/// A lock for sections of some hundred nanoseconds: it spins for a moment and then sleeps, so that a holder that was
/// preempted costs nobody a core. Never held over a wait. Not recursive.
public struct AdaptiveLock: ~Copyable, @unchecked Sendable {
    @usableFromInline
    enum Word {
        @usableFromInline static let free: UInt32 = 0
        @usableFromInline static let held: UInt32 = 1
        /// Held, and somebody sleeps.
        @usableFromInline static let contended: UInt32 = 2
    }
    private static let spins_max = 100

    /// A cache line of its own: neighbours must not slow the spinning down.
    @usableFromInline
    let word: UnsafeMutablePointer<UInt32>

    public init() {
        word = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 64).bindMemory(to: UInt32.self, capacity: 1)
        word.initialize(to: Word.free)
    }

    deinit { UnsafeMutableRawPointer(word).deallocate() }

    @inlinable @inline(__always)
    public borrowing func tryLock() -> Bool {
        var expected = Word.free
        return lego_atomic_compare_exchange_u32(word, &expected, Word.held)
    }

    @inlinable @inline(__always)
    public borrowing func lock() {
        if !tryLock() { lockContended() }
    }

    @inline(never) @usableFromInline
    borrowing func lockContended() {
        for _ in 0..<Self.spins_max {
            lego_spin_pause()
            if lego_atomic_load_u32(word) == Word.free, tryLock() { return }
        }
        while lego_atomic_exchange_u32(word, Word.contended) != Word.free {
            _ = lego_futex_wait(word, Word.contended, -1)
        }
    }

    @inlinable @inline(__always)
    public borrowing func unlock() {
        if lego_atomic_exchange_u32(word, Word.free) == Word.contended { _ = lego_futex_wake(word, 1) }
    }
}
