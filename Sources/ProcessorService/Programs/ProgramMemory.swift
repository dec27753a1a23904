import Kernel
import Wire

/// The memory of all programs of the component: the seam between a program's life and the memory engine.
protocol MemoryEngine: Sendable {
    /// The system call filter that the engine needs, `struct sock_filter`s.
    var filter: [UInt8] { get }
    /// Bytes of the ExCache in use.
    var residentBytes: UInt64 { get }
    /// Takes charge of a program that stands before its first instruction. `onEnd` may be called on any thread, also
    /// before this returns.
    func makeMemory(
        for seat: ProgramSeat, listener: consuming Descriptor, onEnd: @escaping @Sendable (EndCause) -> Void
    ) throws(KernelError) -> any ProgramMemory
}

/// The memory of one program.
protocol ProgramMemory: Sendable {
    /// Before the program may run. Once.
    func start() throws(KernelError)
    /// Any thread: a process has joined the program, and this is the listener of its filter.
    func join(_ listener: consuming Descriptor)
    /// Any thread.
    func statistics() -> ProgramStatistics
    /// Any thread: a memory component is lost.
    func memoryLost(_ node: NodeID)
    /// Any thread: makes all memory of a process local that is about to be dumped to a core file. Waits.
    func prepareCore(process: Int32, until deadline: Deadline)
    /// After the program's last process has ended. Gives everything back. Idempotent.
    func stop()
}

/// What a memory engine must know of a program.
public struct ProgramSeat: Sendable {
    public var program: ProgramID
    public var name: String
    /// Host number of the first process of the program's namespace.
    public var initProcess: Int32
    /// The socket to the guardian, for duplicates of userfault descriptors.
    public var guardian: Int32
    /// The program's own limit of resident bytes; 0: none.
    public var limitBytes: UInt64
    /// The most memory that it may have, local and remote; 0: no limit.
    public var quotaBytes: UInt64 = 0
    /// Where it may run; empty: anywhere.
    public var processors = ProcessorSet(words: [])
    /// Whom it runs as.
    public var user: UInt32 = 0
    /// The memory that it sees; nil: the host's.
    var memory: MemoryFigures?
    /// Where the names of its mapped files are; nil: they have none.
    var procTree: ProcTree?

    public init(program: ProgramID, name: String, initProcess: Int32, guardian: Int32, limitBytes: UInt64) {
        self.program = program
        self.name = name
        self.initProcess = initProcess
        self.guardian = guardian
        self.limitBytes = limitBytes
    }
}

/// Why the rack ends a program. The text is one line for the user.
enum EndCause: Sendable, Equatable {
    /// A component that the program depends on is lost.
    case lost(String)
    /// The rack cannot or will not go on with the program, and kills it.
    case refused(String)
    /// The processor is shut down: the program may end by itself, for a moment.
    case shutdown(String)

    var reason: String {
        switch self {
        case .lost(let text), .refused(let text), .shutdown(let text): text
        }
    }
}
