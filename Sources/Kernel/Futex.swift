import CLinux

/// futex(2) on a 32-bit word that its owner changes with atomic operations.
public enum Futex {
    /// Sleeps while `*word == expected`, until woken or the deadline. Spurious returns are allowed: look at the word again.
    @inlinable
    public static func wait(_ word: UnsafePointer<UInt32>, while expected: UInt32, until deadline: Deadline) {
        let left = deadline.nanosecondsLeft
        _ = lego_futex_wait(word, expected, left == .max ? -1 : left)
    }

    @inlinable
    public static func wake(_ word: UnsafePointer<UInt32>, count: Int32 = 1) {
        _ = lego_futex_wake(word, count)
    }
}
