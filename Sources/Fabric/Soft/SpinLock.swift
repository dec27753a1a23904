import CLinux
import Glibc
import Synchronization

/// A lock for sections of some ten nanoseconds. Never held over a wait; a waiter yields when the holder has lost its
/// processor.
struct SpinLock: ~Copyable, Sendable {
    private let word = Atomic<UInt32>(0)

    /// Takes the lock if it is free. A full barrier either way.
    @inline(__always)
    borrowing func tryLock() -> Bool { word.exchange(1, ordering: .sequentiallyConsistent) == 0 }

    @inline(__always)
    borrowing func lock() { if !tryLock() { lockSlowly() } }

    @inline(never)
    private borrowing func lockSlowly() {
        var spins = 0
        while true {
            while word.load(ordering: .relaxed) != 0 {
                spins += 1
                if spins < 100 { lego_spin_pause() } else { sched_yield() }
            }
            if tryLock() { return }
        }
    }

    /// A full barrier, so that the holder may look afterwards for work that came meanwhile.
    @inline(__always)
    borrowing func unlock() { _ = word.exchange(0, ordering: .sequentiallyConsistent) }
}

/// Work that any thread may carry on, one at a time, and that nobody waits for: whoever finds it taken leaves a note,
/// and the thread that has it looks for notes before it leaves.
struct Driver: ~Copyable, Sendable {
    private enum Word {
        static let free: UInt32 = 0
        static let taken: UInt32 = 1
        /// Taken, and somebody has left a note.
        static let wanted: UInt32 = 2
    }
    private let word = Atomic<UInt32>(Word.free)

    /// Runs `body` unless another thread is about to. Two locked instructions, each a full barrier: what whoever left a
    /// note has published is seen by the body, or the note is seen after it.
    @inline(__always)
    borrowing func drive(_ body: () -> Void) {
        if !begin() { return }
        repeat { body() } while !end()
    }

    /// Answers whether the work is the caller's now; leaves a note otherwise.
    @inline(__always)
    private borrowing func begin() -> Bool {
        var seen = Word.free
        while true {
            let (exchanged, original) = word.compareExchange(
                expected: seen, desired: seen == Word.free ? Word.taken : Word.wanted,
                ordering: .sequentiallyConsistent)
            if exchanged { return seen == Word.free }
            seen = original
        }
    }

    /// Answers whether nobody has left a note; takes one away.
    @inline(__always)
    private borrowing func end() -> Bool {
        if word.compareExchange(expected: Word.taken, desired: Word.free, ordering: .sequentiallyConsistent).exchanged {
            return true
        }
        _ = word.exchange(Word.taken, ordering: .sequentiallyConsistent)
        return false
    }
}
