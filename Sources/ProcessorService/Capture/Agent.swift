import CAgent
import CLinux
import Kernel

/// The processor's end of an injected agent: the shared memory through which it is asked, and the process that it is.
/// Owned by the program's monitor thread.
///
/// What the shared memory holds belongs to the program, which may write anything there at any time: results are checked
/// by whoever uses them, and nothing in it is used as an index or a length without a check.
final class Agent {
    let memory: MemoryFile
    /// The agent's process, in the processor's pid namespace.
    let process: Int32
    let descriptor: Descriptor
    /// /proc/PID/mem: never waits for a page fault of the program, unlike process_vm_readv(2).
    let programMemory: Descriptor
    /// The number of the last request.
    private var requests: UInt32 = 0
    /// Where it may run.
    enum Binding: Equatable {
        /// Where its parent could.
        case inherited
        /// On one processor; -1: on any.
        case on(Int32)
        /// On any but one, polling.
        case beside(Int32)
    }
    var binding = Binding.inherited

    init(memory: MemoryFile, process: Int32) throws(KernelError) {
        self.memory = memory
        self.process = process
        descriptor = try Descriptor(checking: "pidfd_open", lego_pidfd_open(process))
        programMemory = try ProcessFiles.open(process, "mem", writable: false)
    }

    var page: UnsafeMutablePointer<lego_agent_page> {
        (memory.base + Int(LEGO_AGENT_PAGE_OFFSET)).assumingMemoryBound(to: lego_agent_page.self)
    }

    /// Pages that were moved out, `LEGO_AGENT_BATCH` of them.
    var buffer: UnsafeMutableRawPointer { memory.base + Int(LEGO_AGENT_BUFFER_OFFSET) }

    /// Offset of the operations in the shared page; a C array that imports as a tuple.
    var operations: UnsafeMutablePointer<lego_agent_operation> {
        (UnsafeMutableRawPointer(page) + MemoryLayout<lego_agent_page>.offset(of: \.operations).unsafelyUnwrapped)
            .assumingMemoryBound(to: lego_agent_operation.self)
    }

    private func word(_ field: PartialKeyPath<lego_agent_page>) -> UnsafeMutablePointer<UInt32> {
        (UnsafeMutableRawPointer(page) + MemoryLayout<lego_agent_page>.offset(of: field).unsafelyUnwrapped)
            .assumingMemoryBound(to: UInt32.self)
    }
    private lazy var requested = word(\.requested)
    private lazy var finished = word(\.finished)
    private lazy var begun = word(\.begun)
    private lazy var agentSleeps = word(\.agent_sleeps)
    private lazy var processorSleeps = word(\.processor_sleeps)

    /// Posts what the shared page says.
    func post() {
        requests &+= 1
        lego_atomic_store_u32(requested, requests)
        lego_atomic_fence()
        if lego_atomic_load_u32(agentSleeps) != 0 { Futex.wake(requested) }
    }

    var isFinished: Bool { lego_atomic_load_u32(finished) == requests }

    /// Waits for the answer, for at most `nanoseconds`; answers whether it came.
    func waitFinished(nanoseconds: Int64, spins: Int) -> Bool {
        for _ in 0..<spins {
            if isFinished { return true }
            lego_spin_pause()
        }
        lego_atomic_store_u32(processorSleeps, 1)
        lego_atomic_fence()
        let seen = lego_atomic_load_u32(finished)
        if seen != requests { _ = lego_futex_wait(finished, seen, nanoseconds) }
        lego_atomic_store_u32(processorSleeps, 0)
        return isFinished
    }

    /// Whether it has done anything of the last request.
    var hasBegun: Bool { lego_atomic_load_u32(begun) == requests }

    /// Whether the process still runs.
    var isAlive: Bool { lego_pidfd_send_signal(descriptor.raw, 0) == 0 }

    func kill() { _ = lego_pidfd_send_signal(descriptor.raw, 9) }
}
