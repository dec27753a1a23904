import Glibc
import Kernel
import Synchronization

/// Threads for work that blocks: calls to components, SQLite, the password database. The concurrency pool has as many
/// threads as cores and must never do such work.
final class WorkerPool: Sendable {
    /// All threads are at work and the queue is full.
    struct Busy: Error {}

    private struct Queue {
        var tasks: [@Sendable () -> Void] = []
        var isStopped = false
    }

    /// Held for moments only; no task runs under it.
    private let queue = Mutex(Queue())
    private let waiting_max: Int
    /// Counts queued tasks, and after `stop` one per thread.
    private let available: Semaphore
    private let threads = Mutex<[KernelThread]>([])

    init(name: String, threads count: Int, waiting_max: Int) throws(KernelError) {
        self.waiting_max = waiting_max
        available = Semaphore()
        for index in 0..<count {
            let thread = try KernelThread(name: "\(name)\(index)") { [self] in
                while let task = next() { task() }
            }
            threads.withLock { $0.append(thread) }
        }
    }

    /// Runs `body` on one of the threads and hands its result over.
    func run<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
        try await withCheckedThrowingContinuation { continuation in
            let isQueued = submit { continuation.resume(with: Result { try body() }) }
            if !isQueued { continuation.resume(throwing: Busy()) }
        }
    }

    /// Queues `task`; false when the queue is full or stopped.
    @discardableResult
    func submit(_ task: @escaping @Sendable () -> Void) -> Bool {
        let isQueued = queue.withLock { queue in
            if queue.isStopped || queue.tasks.count >= waiting_max { return false }
            queue.tasks.append(task)
            return true
        }
        if isQueued { available.post() }
        return isQueued
    }

    /// Lets queued tasks finish and ends the threads. Idempotent; not from one of them.
    func stop() {
        queue.withLock { $0.isStopped = true }
        let ending = threads.withLock { threads in
            defer { threads = [] }
            return threads
        }
        for _ in ending { available.post() }
        for thread in ending { thread.join() }
    }

    /// The next task; nil when the pool is stopped and nothing is left.
    private func next() -> (@Sendable () -> Void)? {
        available.wait()
        return queue.withLock { $0.tasks.isEmpty ? nil : $0.tasks.removeFirst() }
    }
}

/// sem_overview(7), for threads of one process.
final class Semaphore: @unchecked Sendable {
    // sem_t is made to be shared; it may not move, hence the allocation.
    private let semaphore = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)

    init() { sem_init(semaphore, 0, 0) }

    deinit {
        sem_destroy(semaphore)
        semaphore.deallocate()
    }

    func post() { sem_post(semaphore) }

    func wait() {
        while sem_wait(semaphore) < 0, errno == EINTR {}
    }

    /// False at the deadline (milliseconds from now, by the wall clock's pace).
    func wait(seconds: Int) -> Bool {
        var limit = timespec()
        clock_gettime(CLOCK_REALTIME, &limit)
        limit.tv_sec += seconds
        while sem_timedwait(semaphore, &limit) < 0 {
            if errno != EINTR { return false }
        }
        return true
    }
}
