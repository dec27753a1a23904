import CLinux
import Kernel

/// Wakes those who wait for something that other threads change: they look whenever it may have.
final class Gate: @unchecked Sendable {
    private let words: UnsafeMutablePointer<UInt32>

    init() {
        words = .allocate(capacity: 2)
        words.initialize(repeating: 0, count: 2)
    }

    deinit { words.deallocate() }

    /// Something has changed. Cost where nobody waits: two locked instructions.
    func open() {
        _ = lego_atomic_add_u32(words, 1)
        if lego_atomic_load_u32(words + 1) != 0 { Futex.wake(words, count: .max) }
    }

    /// Waits until a condition holds, which is looked at now and after each change; false at the deadline.
    func wait(until deadline: Deadline, _ condition: () -> Bool) -> Bool {
        _ = lego_atomic_add_u32(words + 1, 1)
        defer { _ = lego_atomic_add_u32(words + 1, .max) }
        while true {
            let seen = lego_atomic_load_u32(words)
            if condition() { return true }
            if deadline.hasPassed { return false }
            Futex.wait(words, while: seen, until: deadline)
        }
    }
}

/// Which nodes have been asked something for a while and have not answered. Any thread; a leaf.
final class Pulse: @unchecked Sendable {
    /// What an answer of a node that is well takes at most, by far.
    private static let patience_ns: UInt64 = 100_000_000
    private let lock = AdaptiveLock()
    // Protected by `lock`.
    private var asking: [UInt64: (count: Int, since_ns: UInt64)] = [:]

    func begin(_ node: UInt64) {
        lock.lock()
        let former = asking[node]
        asking[node] = ((former?.count ?? 0) + 1, former?.since_ns ?? monotonicNanoseconds())
        lock.unlock()
    }

    /// An answer, or none in time.
    func end(_ node: UInt64) {
        lock.lock()
        let count = (asking[node]?.count ?? 1) - 1
        asking[node] = count == 0 ? nil : (count, monotonicNanoseconds())
        lock.unlock()
    }

    func isSilent(_ node: UInt64) -> Bool {
        lock.lock()
        defer { lock.unlock() }
        guard let since = asking[node]?.since_ns else { return false }
        return monotonicNanoseconds() &- since > Self.patience_ns
    }
}
