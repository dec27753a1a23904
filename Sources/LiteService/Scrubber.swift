import CLinux
import Glibc
import Kernel
import Synchronization

/// Clears memory that was given back, before anybody else gets it: on a thread of its own, as it may be much.
final class Scrubber: @unchecked Sendable {
    /// What is cleared at once by whoever gives it back.
    static let small: UInt64 = 64 << 10

    private struct Job {
        var offset: UInt64
        var bytes: UInt64
        var notBefore: Deadline?
        var isPrompt: Bool { notBefore == nil }
    }
    private let pool: UnsafeMutableRawPointer
    private let jobs = Mutex<[Job]>([])
    /// Jobs that need not wait and are not done.
    private let pending = Atomic<Int>(0)
    private let isStopping = Atomic<Bool>(false)
    /// The futex word that changes with each job.
    private let word: UnsafeMutablePointer<UInt32>
    private var thread: KernelThread?

    /// Whether memory goes back to the host. Not where it is of huge pages that the host keeps: one that is given back
    /// may be gone when it is needed again.
    private let givesBack: Bool

    /// Told what goes back.
    private let joiner: PageJoiner?

    init(pool: UnsafeMutableRawPointer, joiner: PageJoiner?) throws {
        self.pool = pool
        self.joiner = joiner
        givesBack = Self.pageBytes(at: pool) <= 4096
        word = .allocate(capacity: 1)
        word.initialize(to: 0)
    }

    deinit { word.deallocate() }

    /// The size of the pages that a mapping consists of, as proc(5) tells it in `smaps`; 4096 where that cannot be read.
    static func pageBytes(at address: UnsafeMutableRawPointer) -> Int {
        guard let file = fopen("/proc/self/smaps", "r") else { return 4096 }
        defer { fclose(file) }
        let start = String(UInt(bitPattern: address), radix: 16) + "-"
        var line = [CChar](repeating: 0, count: 4096)
        var isFound = false
        while fgets(&line, Int32(line.count), file) != nil {
            let text = line.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
            if text.hasPrefix(start) { isFound = true }
            guard isFound, text.hasPrefix("KernelPageSize:") else { continue }
            return (Int(text.filter(\.isNumber)) ?? 4) << 10
        }
        return 4096
    }

    func start(_ done: @escaping @Sendable (UInt64, UInt64) -> Void) throws(KernelError) {
        thread = try KernelThread(name: "lite/scrub") { [self] in
            while !isStopping.load(ordering: .acquiring) {
                let seen = lego_atomic_load_u32(word)
                let (ready, next) = take()
                for job in ready {
                    clear(job.offset, job.bytes)
                    done(job.offset, job.bytes)
                    if job.isPrompt { pending.subtract(1, ordering: .releasing) }
                }
                if ready.isEmpty { Futex.wait(word, while: seen, until: next) }
            }
        }
    }

    func stop() {
        isStopping.store(true, ordering: .releasing)
        announce()
        thread?.join()
    }

    /// Whether memory is on its way back that need not wait.
    var isBusy: Bool { pending.load(ordering: .acquiring) != 0 }

    /// Clears a range soon, or after `notBefore`, and then hands it to `done`.
    func add(_ offset: UInt64, _ bytes: UInt64, notBefore: Deadline? = nil) {
        if notBefore == nil { pending.add(1, ordering: .releasing) }
        jobs.withLock { $0.append(Job(offset: offset, bytes: bytes, notBefore: notBefore)) }
        announce()
    }

    /// Clears at once.
    func clear(_ offset: UInt64, _ bytes: UInt64) {
        let first = (offset + 4095) & ~4095
        let last = (offset + bytes) & ~4095
        // Whole pages of much memory go back to the host; where that is refused they are written.
        if givesBack, bytes > Self.small, last > first, madvise(pool + Int(first), Int(last - first), MADV_REMOVE) == 0
        {
            joiner?.forget(Int(first), Int(last - first))
            memset(pool + Int(offset), 0, Int(first - offset))
            memset(pool + Int(last), 0, Int(offset + bytes - last))
        } else {
            memset(pool + Int(offset), 0, Int(bytes))
        }
    }

    private func take() -> (ready: [Job], next: Deadline) {
        jobs.withLock { jobs in
            let ready = jobs.filter { $0.notBefore?.hasPassed ?? true }
            jobs.removeAll { job in ready.contains { $0.offset == job.offset } }
            return (ready, jobs.compactMap(\.notBefore).min() ?? .never)
        }
    }

    private func announce() {
        _ = lego_atomic_add_u32(word, 1)
        Futex.wake(word)
    }
}
