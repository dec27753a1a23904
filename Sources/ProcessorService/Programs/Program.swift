import Glibc
import Kernel
import Synchronization
import Wire

/// One submitted program: starting → running → ended. What other threads may do with it; its own thread is
/// `ProgramLoop`.
///
/// Lock order: `state` is a leaf; nothing is called while it is held but to wake the program's thread.
final class Program: Sendable {
    let id: ProgramID
    let name: String
    let isDetached: Bool
    /// What it was started with; a process that joins it starts alike.
    let plan: SandboxPlan
    /// Where a detached program's output goes.
    let logPath: String
    let logExtent = LogExtent()
    private let token: [UInt8]

    /// What exists only while the program does.
    final class Life: Sendable {
        let sandbox: Sandbox
        let memory: any ProgramMemory
        /// Wakes the program's thread.
        let wake: EventDescriptor

        init(sandbox: Sandbox, memory: any ProgramMemory, wake: consuming EventDescriptor) {
            self.sandbox = sandbox
            self.memory = memory
            self.wake = wake
        }
    }

    /// What other threads have left for the program's thread.
    struct Inbox: ~Copyable {
        var client: Descriptor?
        var cause: EndCause?
        var isKillWanted = false
        var isReportAcknowledged = false
    }

    private struct State: ~Copyable {
        var life: Life?
        var client: Descriptor?
        var hasClient = false
        var cause: EndCause?
        var isKillWanted = false
        var isReportAcknowledged = false
        var result: ProcessorManagerReport?
        var thread: KernelThread?
        var memory: MemoryFigures?
        /// What has joined it and is not through yet.
        var joined: [JoinedProgram] = []
    }
    private let state: Mutex<State>

    init(_ request: ManagerProcessorStart, plan: SandboxPlan, logPath: String) {
        self.plan = plan
        id = request.program
        name = request.name
        isDetached = request.isDetached
        token = request.attachToken
        self.logPath = logPath
        state = Mutex(State())
    }

    func accepts(token other: UnsafeRawBufferPointer) -> Bool {
        Token.matches(token, other)
    }

    // MARK: Any thread

    /// How it ended; nil while it runs.
    var result: ProcessorManagerReport? { state.withLock { $0.result } }

    /// Hands over a client that wants the streams. Answers why not, if not.
    func attach(_ client: consuming Descriptor) -> String? {
        var client: Descriptor? = client
        return state.withLock { state in
            if isDetached { return "program \(id) is detached: 'legoctl logs \(id)' shows its output" }
            guard let life = state.life, state.result == nil else { return "program \(id) has ended" }
            if state.hasClient { return "somebody else is attached to program \(id)" }
            state.hasClient = true
            state.client = client.take()
            life.wake.signal()
            return nil
        }
    }

    var hasTerminal: Bool { plan.terminal != nil }

    /// Has the program ended. The first cause counts.
    func end(_ cause: EndCause) {
        state.withLock { state in
            if state.cause == nil { state.cause = cause }
            state.life?.wake.signal()
        }
    }

    /// Makes the memory of a process local, whose core is dumped, if it is one of this program's. Answers whether it is.
    func prepareCore(process: Int32, until deadline: Deadline) -> Bool {
        let life = state.withLock { $0.life }
        guard let life, let namespace = ProcessFiles.namespace(process, "pid"),
            namespace == ProcessFiles.namespace(life.sandbox.initProcess, "pid")
        else { return false }
        life.memory.prepareCore(process: process, until: deadline)
        return true
    }

    /// Signals the program's first process; KILL ends all of them. False when it has ended.
    func signal(_ number: Int32) -> Bool {
        let life = state.withLock { state -> Life? in
            guard let life = state.life, state.result == nil else { return nil }
            if number == SIGKILL {
                state.isKillWanted = true
                life.wake.signal()
            }
            return life
        }
        guard let life else { return false }
        return number == SIGKILL || life.sandbox.signal(number, group: false)
    }

    func memoryLost(_ node: NodeID) {
        state.withLock { $0.life }?.memory.memoryLost(node)
    }

    /// The counters now, or at the end.
    func statistics() -> ProgramStatistics {
        let (life, result) = state.withLock { ($0.life, $0.result) }
        return result?.statistics ?? life?.memory.statistics() ?? ProgramStatistics()
    }

    /// What the manager is told with each heartbeat; nil when the program has ended.
    func runningReport() -> ProcessorManagerReport? {
        guard let life = state.withLock({ $0.result == nil ? $0.life : nil }) else { return nil }
        return ProcessorManagerReport(
            program: id, state: .running, exitStatus: -1, signal: 0, reason: "",
            statistics: life.memory.statistics())
    }

    /// The manager knows how the program ended.
    func reportAcknowledged() {
        state.withLock { state in
            state.isReportAcknowledged = true
            state.life?.wake.signal()
        }
    }

    // MARK: What joins it

    /// Processes that may have joined a program at a time.
    static let joined_max = 64

    /// What runs of it; nil when it has ended.
    var life: Life? { state.withLock { $0.result == nil ? $0.life : nil } }

    /// False when there are too many.
    func add(_ joined: JoinedProgram) -> Bool {
        state.withLock { state in
            if state.joined.count >= Self.joined_max { return false }
            state.joined.append(joined)
            return true
        }
    }

    func remove(_ joined: JoinedProgram) {
        state.withLock { $0.joined.removeAll { $0 === joined } }
    }

    func joined(token: UnsafeRawBufferPointer) -> JoinedProgram? {
        state.withLock { $0.joined }.first { $0.accepts(token: token) }
    }

    // MARK: The starter

    /// The memory that it sees.
    var memoryFigures: MemoryFigures? { state.withLock { $0.memory } }
    func setMemory(_ figures: MemoryFigures) { state.withLock { $0.memory = figures } }

    /// From now on the program has processes.
    func begin(_ life: Life) {
        state.withLock { $0.life = life }
    }

    func runs(on thread: KernelThread) {
        state.withLock { $0.thread = thread }
    }

    /// Waits for the threads of the program, and of what joined it, to end. One caller.
    func join() {
        let (thread, joined) = state.withLock { state in
            defer { state.thread = nil }
            return (state.thread, state.joined)
        }
        for joined in joined { joined.leave() }
        thread?.join()
        for joined in joined { joined.join() }
    }

    // MARK: The program's thread

    func takeInbox() -> Inbox {
        state.withLock { state in
            Inbox(
                client: state.client.take(), cause: state.cause, isKillWanted: state.isKillWanted,
                isReportAcknowledged: state.isReportAcknowledged)
        }
    }

    /// Its client has left the terminal, where another one may come.
    func clientLeft() {
        state.withLock { $0.hasClient = false }
    }

    /// The program's processes are gone.
    func finish(_ result: ProcessorManagerReport) {
        state.withLock { $0.result = result }
    }

    /// The program's thread needs nothing more: what exists only while it runs goes.
    func leave() {
        let life = state.withLock { state in
            defer {
                state.life = nil
                state.client = nil
            }
            return state.life
        }
        life?.sandbox.reap()
    }
}
