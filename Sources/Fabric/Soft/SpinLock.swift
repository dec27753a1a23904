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
            while word.load(ordering: .relaxed) != 0 { pauseOrYield(&spins) }
            if tryLock() { return }
        }
    }

    @inline(__always)
    borrowing func unlock() { word.store(0, ordering: .releasing) }

    /// A full barrier as well, so that the holder may look afterwards for work that came meanwhile.
    @inline(__always)
    borrowing func unlockFully() { _ = word.exchange(0, ordering: .sequentiallyConsistent) }
}

/// Between two looks at a section that another thread is in: it may have lost its processor.
private func pauseOrYield(_ spins: inout Int) {
    spins += 1
    if spins < 100 { lego_spin_pause() } else { sched_yield() }
}

/// Work that any thread may carry on, one at a time, and that nobody waits for: whoever finds it taken leaves a note,
/// and the thread that has it looks for notes before it leaves.
struct Driver: ~Copyable, Sendable {
    /// The low bits say what is up; the others count the runs.
    private enum Word {
        static let free: UInt32 = 0
        static let taken: UInt32 = 1
        /// Taken, and somebody has left a note.
        static let wanted: UInt32 = 2
        static let mask: UInt32 = 3
        static let run: UInt32 = 4
    }
    private let word = Atomic<UInt32>(Word.free)

    /// Runs `body` unless another thread is about to. Two locked instructions, each a full barrier: what whoever left a
    /// note has published is seen by the body, or the note is seen after it. What the body has published is seen by whoever
    /// else, or what that one has published before is seen by the caller afterwards.
    @inline(__always)
    borrowing func drive(_ body: () -> Void) {
        if !begin() { return }
        repeat { body() } while !end()
    }

    /// Waits for the run that is under way, if there is one: what is refused before that is refused in all later runs.
    borrowing func awaitRun() {
        let start = word.load(ordering: .sequentiallyConsistent)
        if start & Word.mask == Word.free { return }
        var spins = 0
        while isInRun(start) { pauseOrYield(&spins) }
    }

    private borrowing func isInRun(_ start: UInt32) -> Bool {
        let now = word.load(ordering: .acquiring)
        return now & Word.mask != Word.free && now & ~Word.mask == start & ~Word.mask
    }

    /// Answers whether the work is the caller's now; leaves a note otherwise.
    @inline(__always)
    private borrowing func begin() -> Bool {
        var seen = word.load(ordering: .relaxed)
        while true {
            let isFree = seen & Word.mask == Word.free
            let (exchanged, original) = word.compareExchange(
                expected: seen, desired: isFree ? seen &+ Word.run | Word.taken : seen & ~Word.mask | Word.wanted,
                ordering: .sequentiallyConsistent)
            if exchanged { return isFree }
            seen = original
        }
    }

    /// Answers whether nobody has left a note; takes one away, and begins another run.
    @inline(__always)
    private borrowing func end() -> Bool {
        let seen = word.load(ordering: .relaxed)
        if seen & Word.mask == Word.taken {
            let (exchanged, _) = word.compareExchange(
                expected: seen, desired: seen & ~Word.mask, ordering: .sequentiallyConsistent)
            if exchanged { return true }
        }
        _ = word.exchange((seen & ~Word.mask &+ Word.run) | Word.taken, ordering: .sequentiallyConsistent)
        return false
    }
}
