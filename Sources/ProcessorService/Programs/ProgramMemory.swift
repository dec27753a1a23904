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
struct ProgramSeat: Sendable {
    var program: ProgramID
    var name: String
    /// Host number of the first process of the program's namespace.
    var initProcess: Int32
    /// The socket to the guardian, for duplicates of userfault descriptors.
    var guardian: Int32
    /// The program's own limit of resident bytes; 0: none.
    var limitBytes: UInt64
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
