import CLinux
import Glibc
import Kernel
import Synchronization

/// Has the kernel join an arena's pages into huge ones, as far as it is in use: accesses all over gigabytes find small
/// pages' translations in no processor's buffers, and each then takes a walk through two page tables in a virtual machine.
/// The kernel would do so itself, but for shared memory hosts mostly have that turned off (shmem_enabled); asked for a
/// range it does it all the same. While it joins a page, whoever touches it waits for some 100 µs.
///
/// On a thread of its own, which looks again a while after memory has been given out, more and more seldom while it finds
/// nothing to do, and never before there was a region as large as a huge page.
final class PageJoiner: @unchecked Sendable {
    static let hugeBytes = 2 << 20
    private static let pageBytes = 4096
    private static let pages = hugeBytes / pageBytes
    /// Small pages in use that make a huge one worth its memory: half of them.
    private static let used_min = pages / 2
    /// Failures of one round after which the host is taken to have no more.
    private static let failures_max = 16
    private static let pause_min = Duration.milliseconds(200)
    private static let pause_max = Duration.seconds(60)

    private let pool: UnsafeMutableRawPointer
    private let start: UnsafeMutableRawPointer
    private let count: Int
    private let isStopping = Atomic<Bool>(false)
    /// The futex word that changes with each announcement.
    private let word: UnsafeMutablePointer<UInt32>
    private let joined = Atomic<Int>(0)
    /// For each huge page, 1 when it has been made and not been taken apart since.
    private let isWhole: UnsafeMutablePointer<UInt32>
    private var thread: KernelThread?

    /// For the whole huge pages of a part of a pool.
    init(pool: UnsafeMutableRawPointer, start offset: Int, count bytes: Int) {
        self.pool = pool
        start = (pool + offset).alignedUp(toMultipleOf: Self.hugeBytes)
        count = max(0, (pool + offset + bytes - start) / Self.hugeBytes)
        word = .allocate(capacity: 1)
        word.initialize(to: 0)
        isWhole = .allocate(capacity: count)
        isWhole.initialize(repeating: 0, count: count)
    }

    deinit {
        word.deallocate()
        isWhole.deallocate()
    }

    /// Huge pages that were made so far.
    var joinedCount: Int { joined.load(ordering: .relaxed) }

    func run() throws(KernelError) {
        if count == 0 { return }
        thread = try KernelThread(name: "lite/pages") { [self] in look() }
    }

    func stop() {
        isStopping.store(true, ordering: .releasing)
        announce()
        thread?.join()
        thread = nil
    }

    /// Memory has been given out, and will soon be in use. Any thread.
    func announce() {
        _ = lego_atomic_add_u32(word, 1)
        Futex.wake(word)
    }

    /// Memory has gone back to the host, and huge pages with it: bytes of the pool. Any thread.
    func forget(_ offset: Int, _ bytes: Int) {
        let first = max(0, pool + offset - start) / Self.hugeBytes
        let last = min(count, (pool + offset + bytes - start + Self.hugeBytes - 1) / Self.hugeBytes)
        if first >= last { return }
        for index in first..<last { lego_atomic_store_u32(isWhole + index, 0) }
    }

    private func look() {
        var seen: UInt32 = 0
        var pause = Self.pause_min
        var next = Deadline.never
        var isUsed = [UInt8](repeating: 0, count: Self.pages)
        while true {
            Futex.wait(word, while: seen, until: next)
            if isStopping.load(ordering: .acquiring) { return }
            let now = lego_atomic_load_u32(word)
            if now != seen {
                seen = now
                pause = Self.pause_min
                next = min(next, .after(pause))
            } else if next.hasPassed {
                pause = joinAll(&isUsed) > 0 ? Self.pause_min : min(pause * 2, Self.pause_max)
                next = .after(pause)
            }
        }
    }

    /// Answers how many pages it made.
    private func joinAll(_ isUsed: inout [UInt8]) -> Int {
        var made = 0
        var failures = 0
        for index in 0..<count {
            if isStopping.load(ordering: .relaxed) || failures == Self.failures_max { break }
            let page = start + index * Self.hugeBytes
            if lego_atomic_load_u32(isWhole + index) != 0 || !Self.isWorthIt(page, &isUsed) { continue }
            // First, so that what is taken apart meanwhile is looked at again.
            _ = lego_atomic_exchange_u32(isWhole + index, 1)
            if lego_memory_collapse(page, UInt64(Self.hugeBytes)) == 0 {
                made += 1
            } else {
                lego_atomic_store_u32(isWhole + index, 0)
                failures += 1
            }
        }
        joined.add(made, ordering: .relaxed)
        return made
    }

    private static func isWorthIt(_ page: UnsafeMutableRawPointer, _ isUsed: inout [UInt8]) -> Bool {
        mincore(page, hugeBytes, &isUsed) == 0 && isUsed.reduce(0) { $0 + Int($1 & 1) } >= used_min
    }
}
