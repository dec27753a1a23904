import CLinux
import Glibc
import Kernel
import Synchronization

/// The thread that carries modelled links on where nobody polls: it releases messages whose time has come and wakes
/// sleepers whose completions are due. A device has one, from its first model on; without models there is no thread.
///
/// Lock order: `state` is a leaf; pairs are carried on without it.
final class LinkPacer: Sendable {
    private struct State {
        var pairs: [PacedPair] = []
        var thread: KernelThread?
        var isClosed = false
    }

    let clock: LinkClock
    private let state = Mutex(State())
    /// When the thread looks again at the latest, by the clock; `never` also while it is looking.
    private let nextLook = Atomic<UInt64>(PacedPair.never)
    /// Futex word: changes when the thread must look at once.
    private nonisolated(unsafe) let word: UnsafeMutablePointer<UInt32>

    /// How soon a pair is looked at again that another thread was busy with.
    private static let busyRetry_ns: UInt64 = 20_000

    init(clock: LinkClock) {
        self.clock = clock
        word = .allocate(capacity: 1)
        word.initialize(to: 0)
    }

    deinit { word.deallocate() }

    func add(_ pair: PacedPair) throws(FabricError) {
        do throws(KernelError) {
            try state.withLock { state throws(KernelError) in
                if state.isClosed { throw KernelError("link model of a closed device", ESHUTDOWN) }
                if state.thread == nil {
                    // The thread holds the pacer until `close`.
                    state.thread = try KernelThread(name: "lego-pacer") { [self] in run() }
                }
                state.pairs.append(pair)
            }
        } catch {
            throw .system(error)
        }
    }

    func remove(_ pair: PacedPair) { state.withLock { $0.pairs.removeAll { $0 === pair } } }

    /// Sees to it that the thread looks at `due`. The pair's note of it has been written before. Cost: a load, and a
    /// system call where the thread would sleep longer.
    func plan(_ due: UInt64) { if due < nextLook.load(ordering: .sequentiallyConsistent) { wake() } }

    private func wake() {
        _ = lego_atomic_add_u32(word, 1)
        Futex.wake(word)
    }

    func close() {
        let running = state.withLock { state in
            state.isClosed = true
            state.pairs = []
            defer { state.thread = nil }
            return state.thread
        }
        wake()
        running?.join()
    }

    private func run() {
        // The kernel may put timers off by 50 us unless told otherwise.
        lego_thread_set_timer_slack(1)
        while true {
            let seen = lego_atomic_load_u32(word)
            nextLook.store(PacedPair.never, ordering: .sequentiallyConsistent)
            let (pairs, isClosed) = state.withLock { ($0.pairs, $0.isClosed) }
            if isClosed { return }
            let now = clock.now()
            var next = PacedPair.never
            for pair in pairs { next = min(next, look(at: pair, now)) }
            nextLook.store(next, ordering: .sequentiallyConsistent)
            let deadline =
                next == PacedPair.never ? .never : Deadline(nanoseconds: monotonicNanoseconds() &+ (next &- now))
            // A plan that came since has changed the word.
            Futex.wait(word, while: seen, until: deadline)
        }
    }

    /// Carries a pair on; answers when to do so again.
    private func look(at pair: PacedPair, _ now: UInt64) -> UInt64 {
        var next = pair.carryOn(now) ? PacedPair.never : now &+ Self.busyRetry_ns
        let release = pair.nextRelease
        if release != PacedPair.never { next = min(next, max(release, now &+ 1)) }
        // Whoever has not armed polls before it sleeps, and plans then.
        guard pair.queue.isArmed else { return next }
        let report = pair.nextReport
        if report > now { return min(next, report) }
        pair.queue.notifyIfArmed()
        return next
    }
}
