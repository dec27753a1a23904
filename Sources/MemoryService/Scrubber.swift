import Glibc
import Kernel
import Synchronization

/// The thread that zeroes released chunks, so that a reservation rarely waits for it. Sleeps while there is nothing to
/// do.
final class Scrubber: Sendable {
    private let pool: ChunkPool
    private let work: EventDescriptor
    private let isStopping = Atomic(false)
    private let thread = Mutex<KernelThread?>(nil)

    init(pool: ChunkPool) throws(KernelError) {
        self.pool = pool
        work = try EventDescriptor()
    }

    func start() throws(KernelError) {
        let started = try KernelThread(name: "lego-scrub") { [self] in
            while !isStopping.load(ordering: .acquiring) {
                if !pool.scrub() { sleep() }
                work.drain()
            }
        }
        thread.withLock { $0 = started }
    }

    /// Chunks were released. Any thread; cost: one write(2).
    func wake() { work.signal() }

    /// Sleeps until `wake` or `stop`, however long ago it was called.
    private func sleep() {
        var waited = pollfd(fd: work.raw, events: Int16(POLLIN), revents: 0)
        poll(&waited, 1, -1)
    }

    /// Ends the thread after the run that it works on. Idempotent.
    func stop() {
        isStopping.store(true, ordering: .releasing)
        work.signal()
        thread.withLock { thread in
            thread?.join()
            thread = nil
        }
    }
}
