import CLinux
import Kernel

/// Threads that take jobs from a bounded queue, oldest first.
final class WorkerPool<Job>: @unchecked Sendable {
    private let lock = AdaptiveLock()
    private let capacity: Int
    // Protected by `lock`.
    private let ring: UnsafeMutablePointer<Job?>
    private var head = 0
    private var count = 0
    private var idle = 0
    private var isStopping = false
    /// The futex word of the idle workers: changes with each job.
    private let sequence: UnsafeMutablePointer<UInt32>
    /// The owner's, from `start` to `stop`.
    private var threads: [KernelThread] = []

    init(capacity: Int) {
        self.capacity = capacity
        ring = .allocate(capacity: capacity)
        ring.initialize(repeating: nil, count: capacity)
        sequence = .allocate(capacity: 1)
        sequence.initialize(to: 0)
    }

    deinit {
        ring.deinitialize(count: capacity)
        ring.deallocate()
        sequence.deallocate()
    }

    func start(name: String, threads count: Int, _ body: @escaping @Sendable (Job) -> Void) throws(KernelError) {
        for number in 0..<count {
            threads.append(
                try KernelThread(name: "\(name)/w\(number)") {
                    while let job = self.next() { body(job) }
                })
        }
    }

    /// Queues a job; false when the queue is full or stopped. Any thread, does not wait, does not allocate.
    func add(_ job: Job) -> Bool {
        lock.lock()
        if isStopping || count == capacity {
            lock.unlock()
            return false
        }
        var place = head + count
        if place >= capacity { place -= capacity }
        ring[place] = job
        count += 1
        let wakes = idle > 0
        if wakes { _ = lego_atomic_add_u32(sequence, 1) }
        lock.unlock()
        if wakes { Futex.wake(sequence) }
        return true
    }

    /// Waits for the next job; nil when the pool stops and the queue is empty.
    private func next() -> Job? {
        lock.lock()
        while count == 0 {
            if isStopping {
                lock.unlock()
                return nil
            }
            idle += 1
            let seen = lego_atomic_load_u32(sequence)
            lock.unlock()
            Futex.wait(sequence, while: seen, until: .never)
            lock.lock()
            idle -= 1
        }
        let job = ring[head]
        ring[head] = nil
        head = head + 1 == capacity ? 0 : head + 1
        count -= 1
        lock.unlock()
        return job
    }

    /// Lets the workers finish what is queued, and joins them.
    func stop() {
        lock.lock()
        isStopping = true
        _ = lego_atomic_add_u32(sequence, 1)
        lock.unlock()
        Futex.wake(sequence, count: .max)
        for thread in threads { thread.join() }
        threads = []
    }
}
