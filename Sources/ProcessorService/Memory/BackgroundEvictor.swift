import CLinux
import Kernel
import Synchronization

/// A thread that carries out one batch at a time for a monitor, so that pages leave while the program runs. It touches
/// the batch alone, from `submit` until `isDone`.
///
/// Its thread and the agent's second one keep off the processor on which the program is served: there they would take
/// the time that they are to save.
final class BackgroundEvictor: @unchecked Sendable {
    private enum Phase {
        static let idle: UInt32 = 0
        static let posted: UInt32 = 1
        static let done: UInt32 = 2
        static let stopping: UInt32 = 3
    }

    let batch: EvictionBatch
    /// A `Phase`. The monitor changes idle and done, the thread posted.
    private let phase: UnsafeMutablePointer<UInt32>
    /// Set by the monitor while it sleeps until the batch is done.
    private let isAwaited: UnsafeMutablePointer<UInt32>
    private var thread: KernelThread?
    private let number = Atomic<Int32>(0)

    init(batch: EvictionBatch) {
        self.batch = batch
        phase = .allocate(capacity: 1)
        phase.initialize(to: Phase.idle)
        isAwaited = .allocate(capacity: 1)
        isAwaited.initialize(to: 0)
    }

    deinit {
        phase.deallocate()
        isAwaited.deallocate()
    }

    /// Whether a batch is out, carried out or not.
    var isBusy: Bool { lego_atomic_load_u32(phase) != Phase.idle }
    /// Whether the batch is the monitor's again.
    var isDone: Bool { lego_atomic_load_u32(phase) == Phase.done }
    /// The thread's number; 0 before it runs.
    var threadNumber: Int32 { number.load(ordering: .acquiring) }

    /// Starts the thread, once. Answers whether there is one.
    func start(name: String) -> Bool {
        if thread != nil { return true }
        thread = try? KernelThread(name: name) { [self] in run() }
        return thread != nil
    }

    /// Hands the batch over.
    func submit() {
        lego_atomic_store_u32(phase, Phase.posted)
        Futex.wake(phase)
    }

    /// Polls, then sleeps until the batch is done, at most `nanoseconds`. Answers whether it is.
    func wait(spins: Int, nanoseconds: Int64) -> Bool {
        for _ in 0..<spins {
            if isDone { return true }
            lego_spin_pause()
        }
        lego_atomic_store_u32(isAwaited, 1)
        lego_atomic_fence()
        if !isDone { _ = lego_futex_wait(phase, Phase.posted, nanoseconds) }
        lego_atomic_store_u32(isAwaited, 0)
        return isDone
    }

    /// The monitor has drawn the consequences.
    func settle() { lego_atomic_store_u32(phase, Phase.idle) }

    /// Ends the thread. No batch may be out.
    func stop() {
        lego_atomic_store_u32(phase, Phase.stopping)
        Futex.wake(phase)
        thread?.join()
        thread = nil
    }

    private func run() {
        number.store(lego_thread_id(), ordering: .releasing)
        while true {
            let now = lego_atomic_load_u32(phase)
            if now == Phase.stopping { return }
            if now != Phase.posted {
                _ = lego_futex_wait(phase, now, -1)
                continue
            }
            batch.carryOut()
            lego_atomic_store_u32(phase, Phase.done)
            lego_atomic_fence()
            if lego_atomic_load_u32(isAwaited) != 0 { Futex.wake(phase) }
        }
    }
}
