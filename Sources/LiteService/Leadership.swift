import CLinux
import Kernel
import Synchronization

/// Who looks for work: one of the serving threads at a time. A thread that is about to wait gives the leadership away
/// first; if none waits for it another thread is started, so that there is always one that looks.
final class Leadership: @unchecked Sendable {
    private enum Word {
        static let free: UInt32 = 0
        static let taken: UInt32 = 1
    }
    private let words: UnsafeMutablePointer<UInt32>
    private var waiting: UnsafeMutablePointer<UInt32> { words + 1 }
    private let threads_max: Int
    /// nil: no more are started.
    private let threads = Mutex<[KernelThread]?>([])
    /// Threads that run a lane. Lanes leave one thread to lead.
    private let away = Atomic<Int>(0)
    /// Set once, before the first thread is started.
    private var body: @Sendable () -> Void = {}

    init(threads_max: Int) {
        self.threads_max = threads_max
        words = .allocate(capacity: 2)
        words.initialize(repeating: 0, count: 2)
    }

    deinit { words.deallocate() }

    /// Starts the first thread; each runs `body`.
    func start(_ body: @escaping @Sendable () -> Void) throws(KernelError) {
        self.body = body
        try grow()
    }

    /// Starts another thread, unless there are as many as may be.
    private func grow() throws(KernelError) {
        let body = body
        try threads.withLock { (threads) throws(KernelError) in
            guard let count = threads?.count, count < threads_max else { return }
            threads?.append(try KernelThread(name: "lite/serve\(count)") { body() })
        }
    }

    /// Waits for the threads to end.
    func join() {
        let last = threads.withLock { threads in
            defer { threads = nil }
            return threads ?? []
        }
        for thread in last { thread.join() }
    }

    /// Waits until it is the caller's.
    func take() {
        while true {
            var expected = Word.free
            if lego_atomic_compare_exchange_u32(words, &expected, Word.taken) { return }
            _ = lego_atomic_add_u32(waiting, 1)
            Futex.wait(words, while: Word.taken, until: .never)
            _ = lego_atomic_add_u32(waiting, .max)
        }
    }

    /// Gives it to a thread that waits, or to the first that comes.
    func give() {
        _ = lego_atomic_exchange_u32(words, Word.free)
        if lego_atomic_load_u32(waiting) != 0 {
            Futex.wake(words)
        } else {
            // Where the host has no more threads, the next that is done with what it does leads.
            do throws(KernelError) { try grow() } catch {}
        }
    }

    /// Whether the leader may go and run a lane: others are left to lead. Ends with `comeBack`.
    func leaveForLane() -> Bool {
        if away.add(1, ordering: .acquiringAndReleasing).newValue < threads_max { return true }
        _ = away.subtract(1, ordering: .acquiringAndReleasing)
        return false
    }

    /// Answers whether a lane may wait for a thread.
    func comeBack() -> Bool { away.subtract(1, ordering: .acquiringAndReleasing).newValue >= threads_max - 2 }
}
