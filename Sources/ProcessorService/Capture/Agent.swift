import CAgent
import CLinux
import Glibc
import Kernel

/// The processor's end of an injected agent: the shared memory through which it is asked and the process that it is.
/// Owned by the program's monitor thread; the evictor's part is the background evictor's while it has a batch.
final class Agent {
    /// What its process calls itself.
    static let name = "lego-agent"
    let memory: MemoryFile
    /// The agent's process, in the processor's pid namespace.
    let process: Int32
    let descriptor: Descriptor
    /// Its number in the program's pid namespace; 0 when it died before anybody asked.
    lazy var innerNumber = ProcessFiles.innermostNumber(process) ?? 0
    /// /proc/PID/mem: never waits for a page fault of the program, unlike process_vm_readv(2).
    let programMemory: Descriptor
    /// The first thread, for calls and for evictions that somebody waits for.
    let calls: AgentChannel
    /// The second thread, for evictions ahead of need, and its number in this pid namespace; 0: there is none.
    let evictions: AgentChannel
    let evictor: Int32
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
    /// The processor that the second thread keeps off; -1: none, -2: never said.
    var evictorAvoids: Int32 = -2

    init(
        memory: MemoryFile, process: Int32, pipe: consuming Descriptor, evictorPipe: consuming Descriptor
    ) throws(KernelError) {
        self.memory = memory
        self.process = process
        calls = AgentChannel(memory, offset: UInt64(LEGO_AGENT_PAGE_OFFSET), pipe: pipe)
        evictions = AgentChannel(memory, offset: UInt64(LEGO_AGENT_EVICTOR_PAGE_OFFSET), pipe: evictorPipe)
        evictor = ProcessFiles.threads(process).first { $0 != process } ?? 0
        descriptor = try Descriptor(checking: "pidfd_open", lego_pidfd_open(process))
        programMemory = try ProcessFiles.open(process, "mem", writable: false)
    }

    /// Pages that were moved out, `LEGO_AGENT_BATCH` of them.
    var buffer: UnsafeMutableRawPointer { memory.base + Int(LEGO_AGENT_BUFFER_OFFSET) }

    /// Whether a thread that the kernel named in the program's pid namespace is one of the agent's. Reads /proc.
    func isThread(numbered number: Int32) -> Bool {
        ProcessFiles.isNumbered(process, innermost: number)
            || evictor != 0 && ProcessFiles.isNumbered(evictor, innermost: number)
    }

    /// How a request ended.
    enum Answer {
        case given
        case died
        /// It was ended, because it did not answer in time.
        case overdue
    }
    /// How long a request may take.
    private static let patience: Duration = .seconds(20)

    /// Waits for the answer to what was posted, and looks after something else at least once in `slice` nanoseconds, in
    /// time less often.
    func awaitAnswer(_ channel: AgentChannel, slice: Int64, spins: Int, meanwhile: () -> Void) -> Answer {
        var slice = slice
        let deadline = Deadline.after(Self.patience)
        while !channel.waitFinished(nanoseconds: slice, spins: spins) {
            meanwhile()
            if !isAlive { return channel.isFinished ? .given : .died }
            if deadline.hasPassed {
                kill()
                return channel.isFinished ? .given : .overdue
            }
            if slice < 5_000_000 { slice *= 2 }
        }
        return .given
    }

    /// Whether the process still runs.
    var isAlive: Bool { lego_pidfd_has_ended(descriptor.raw) == 0 }

    func kill() { _ = lego_pidfd_send_signal(descriptor.raw, 9) }
}
