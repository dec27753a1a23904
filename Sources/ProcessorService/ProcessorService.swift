import CLinux
import Fabric
import Glibc
import Kernel
import Lite
import Logging
import Synchronization
import Wire

/// A processor component (pComponent, LegoOS §4.3): runs programs. Its memory engine gives them memory behind the
/// ExCache, their files come from the storage component's tree, their streams go to whoever attaches.
public final class ProcessorService: Sendable {
    /// How long building a program's namespaces and loading it may take: the tree is remote. Less than the manager
    /// waits for the answer.
    static let setupLimit = Duration.seconds(10)

    /// How long a core file waits for the memory of its process.
    private static let coreLimit = Duration.seconds(60)

    let configuration: ProcessorConfiguration
    private let engine: any MemoryEngine
    let hooks: ProcessorHooks
    let logger: Logger
    let table: ProgramTable
    private let prepared: PreparedSandbox
    private let reports: ReportQueue
    private let attach: AttachServer
    private let attachThread = Mutex<KernelThread?>(nil)
    /// As the manager says it.
    public let rackMemory = RackMemory()
    private let proc = Mutex<ProcTree?>(nil)
    /// What programs see in /proc; nil before the start.
    var procTree: ProcTree? { proc.withLock { $0 } }

    /// Gives this process a mount namespace of its own, so that the storage mount and all binds vanish with the last of
    /// its processes. Must be called while the process has one thread.
    public static func enterPrivateMounts() throws(KernelError) {
        _ = try checked("unshare CLONE_NEWNS", lego_mount_unshare())
    }

    /// Opens the attach port and offers the manager's functions on `node`, which must not have been started. `buffers`
    /// hands out the node's pool; `place` asks the manager where a program's next region shall live, and may take some
    /// seconds.
    public convenience init(
        node: RackNode, buffers: PoolAllocator, configuration: ProcessorConfiguration, hooks: ProcessorHooks,
        place: @escaping RemoteMemory.Place, logger: Logger
    ) throws(ProcessorError) {
        let engine = MonitorEngine(
            cache: ExCache(capacityBytes: configuration.excacheBytes),
            remote: RemoteMemory(node: node, buffers: buffers, place: place, logger: logger), logger: logger)
        try self.init(configuration: configuration, engine: engine, hooks: hooks, logger: logger)
        offer(on: node)
    }

    /// Opens the attach port.
    init(
        configuration: ProcessorConfiguration, engine: any MemoryEngine, hooks: ProcessorHooks, logger: Logger
    ) throws(ProcessorError) {
        self.configuration = configuration
        self.engine = engine
        self.hooks = hooks
        self.logger = logger
        let table = ProgramTable()
        self.table = table
        prepared = PreparedSandbox(executable: configuration.sandboxPath)
        do {
            attach = try AttachServer(listen: configuration.attachListen, logger: logger) { table[$0] }
        } catch { throw .fabric(error) }
        do {
            reports = try ReportQueue(send: hooks.report) { table[$0]?.reportAcknowledged() }
        } catch { throw .system(error) }
    }

    /// Offers the manager's functions on a node that has not been started.
    func offer(on node: RackNode) {
        node.register(RackFunction.startProgram, ManagerProcessorStart.self, ProcessorManagerStarted.self) {
            [weak self] peer, request in
            guard let self, hooks.isManager(peer) else { return (.fenced, nil) }
            return start(request)
        }
        node.register(RackFunction.joinProgram, ManagerProcessorJoin.self, ProcessorManagerStarted.self) {
            [weak self] peer, request in
            guard let self, hooks.isManager(peer) else { return (.fenced, nil) }
            return join(request)
        }
        node.register(RackFunction.signalProgram, ManagerProcessorSignal.self, Acknowledgement.self) {
            [weak self] peer, request in
            guard let self, hooks.isManager(peer) else { return (.fenced, nil) }
            return signal(request.program, Int32(request.signal)) ? (.ok, Acknowledgement()) : (.notFound, nil)
        }
        node.register(RackFunction.programStatistics, ManagerProcessorStatistics.self, ProgramStatistics.self) {
            [weak self] peer, request in
            guard let self, hooks.isManager(peer) else { return (.fenced, nil) }
            guard let program = table[request.program] else { return (.notFound, nil) }
            return (.ok, program.statistics())
        }
    }

    /// Starts to take attachments and to report. Programs can be started from now on.
    public func start() throws(ProcessorError) {
        // A program that closes its input must not end the daemon.
        Glibc.signal(SIGPIPE, SIG_IGN)
        if access(configuration.sandboxPath, X_OK) != 0 { throw .noSandbox(configuration.sandboxPath) }
        try Self.makeDirectory(configuration.stateDirectory, mode: 0o755)
        try Self.makeDirectory(configuration.logDirectory, mode: 0o700)
        do {
            let tree = try ProcTree(mountPoint: configuration.procDirectory, logger: logger)
            proc.withLock { $0 = tree }
            try reports.start()
            try prepared.start()
            let attach = attach
            let thread = try KernelThread(name: "lego-attach") { attach.run() }
            attachThread.withLock { $0 = thread }
        } catch { throw .system(error) }
    }

    /// Has the mounts of this service and one more released when the daemon has been killed. On the main thread, before
    /// the start and the first mount; the caller stops it after the last.
    public func releaseMounts(and mountPoint: String) throws(ProcessorError) -> MountRelease {
        if access(configuration.sandboxPath, X_OK) != 0 { throw .noSandbox(configuration.sandboxPath) }
        do {
            return try MountRelease(
                executable: configuration.sandboxPath, mounts: [mountPoint, configuration.procDirectory])
        } catch { throw .system(error) }
    }

    private static func makeDirectory(_ path: String, mode: mode_t) throws(ProcessorError) {
        if mkdir(path, mode) < 0, errno != EEXIST { throw .stateDirectory(path, KernelError("mkdir")) }
    }

    // MARK: Any thread

    /// Where legoctl attaches, `HOST:PORT`.
    public var attachAddress: String { attach.address.description }

    /// Bytes of the ExCache in use.
    public var usedBytes: UInt64 { engine.residentBytes }

    /// One report for each running program, for the manager's heartbeat.
    public func runningReports() -> [ProcessorManagerReport] { table.all.compactMap { $0.runningReport() } }

    /// A component is lost. Programs with memory there end; a lost storage component answers their reads and writes
    /// with errors.
    public func componentLost(_ node: NodeID) {
        for program in table.all { program.memoryLost(node) }
    }

    /// The kernel is about to write a core file of a process: waits, at most some seconds, until its memory is there.
    public func prepareCore(process: Int32) {
        let deadline = Deadline.after(Self.coreLimit)
        for program in table.all where program.prepareCore(process: process, until: deadline) { return }
    }

    /// Ends all programs and waits until nothing of them is left: SIGTERM, then SIGKILL. Their ends are reported if the
    /// manager can be reached. Once.
    public func stop() {
        table.close()
        attach.stop()
        attachThread.join()
        // A start that is under way ends within its limit, and then itself ends its program.
        let programs = table.all
        for program in programs { program.end(.shutdown("\(hooks.name()) was shut down")) }
        for program in programs { program.join() }
        prepared.close()
        reports.stop()
        let tree = proc.withLock { tree in
            defer { tree = nil }
            return tree
        }
        tree?.stop()
    }

    /// Signals a program's first process; KILL ends all of them, and a start that is under way.
    func signal(_ program: ProgramID, _ number: Int32) -> Bool {
        if number == SIGKILL, table.cancel(program) { return true }
        return table[program]?.signal(number) == true
    }

    // MARK: Starting a program, on a worker of the node

    func start(_ request: ManagerProcessorStart) -> (Status, ProcessorManagerStarted?) {
        switch table.claim(request.program) {
        case .exists: return Self.refusal(.exists, "program \(request.program) exists already")
        case .full:
            return Self.refusal(
                .noSpace, "\(hooks.name()) runs \(ProgramTable.running_max) programs, as many as it can")
        case .closed: return Self.refusal(.busy, "\(hooks.name()) is shutting down")
        case .granted: break
        }
        do throws(SandboxFailure) {
            let notice = try launch(request)
            return (.ok, ProcessorManagerStarted(reason: notice.cut(toBytes: WireLimit.reason_max), exitStatus: 0))
        } catch {
            table.abandon(request.program)
            procTree?.removeMemory(of: request.program)
            logger.info("start refused", metadata: ["program": "\(request.program)", "reason": "\(error.reason)"])
            return Self.refusal(error)
        }
    }

    static func refusal(_ failure: SandboxFailure) -> (Status, ProcessorManagerStarted?) {
        let number =
            switch failure.exitStatus {
            case 127: ENOENT
            case 126: EACCES
            default: EIO
            }
        return refusal(.system(number), failure.reason, failure.exitStatus)
    }

    static func refusal(_ status: Status, _ reason: String, _ exitStatus: UInt32 = 125)
        -> (Status, ProcessorManagerStarted?)
    {
        (status, ProcessorManagerStarted(reason: reason.cut(toBytes: WireLimit.reason_max), exitStatus: exitStatus))
    }

    /// Answers what the user should know about the start; mostly nothing.
    private func launch(_ request: ManagerProcessorStart) throws(SandboxFailure) -> String {
        guard let tree = hooks.tree() else {
            throw SandboxFailure(
                "no storage component is mounted at \(hooks.name()); is one healthy in 'legoctl status'?")
        }
        hooks.refreshTree()
        var plan = plan(request, tree)
        try checkProcessors(plan.processors)
        let logPath = "\(configuration.logDirectory)/\(request.program).log"
        let program = Program(request, plan: plan, logPath: logPath)
        addMemory(of: program, request, to: &plan)
        do throws(SandboxFailure) {
            try launch(program, request, plan)
            return ""
        } catch {
            if !request.mayStartElsewhere || !error.isWorkingDirectory { throw error }
        }
        let wanted = plan.workingDirectory
        plan.workingDirectory = "/"
        try launch(program, request, plan)
        return "the program cannot enter \(wanted); it runs in /"
    }

    private func launch(_ program: Program, _ request: ManagerProcessorStart, _ plan: SandboxPlan)
        throws(SandboxFailure)
    {
        var streams: StreamSet
        do {
            if plan.terminal != nil {
                streams = try .none()
            } else {
                streams = try request.isDetached ? .log(at: program.logPath) : .pipes()
            }
        } catch { throw SandboxFailure(error, during: "standard streams") }
        defer { prepared.want(plan.preparation) }
        let sandbox = try Sandbox.launch(
            executable: configuration.sandboxPath, plan: plan, streams: streams.program, limit: Self.setupLimit,
            prepared: prepared)
        do {
            if let master = sandbox.takeTerminal() { streams.daemon = try .terminal(master) }
            try run(program, request, sandbox, streams.daemon)
        } catch { throw SandboxFailure(error, during: "memory engine") }
    }

    private func plan(_ request: ManagerProcessorStart, _ tree: StorageTree) -> SandboxPlan {
        var plan = SandboxPlan(
            root: tree.path, rootName: tree.name, workingDirectory: request.workingDirectory, user: request.user,
            group: request.group, groups: request.groups, arguments: request.arguments,
            environment: request.environment, filter: engine.filter)
        plan.temporaryBytes = configuration.temporaryBytes
        plan.terminal = request.terminal
        plan.processors = request.processors
        return plan
    }

    /// The rack's memory, or the quota, as the program's /proc/meminfo.
    private func addMemory(of program: Program, _ request: ManagerProcessorStart, to plan: inout SandboxPlan) {
        // Newer than the last heartbeat: a memory component may have come since.
        if request.rackMemoryBytes > 0 {
            rackMemory.set(
                total: request.rackMemoryBytes, used: rackMemory.usedBytes.load(ordering: .relaxed))
        }
        let figures = MemoryFigures(rack: rackMemory, quotaBytes: request.memoryBytes) { [weak program] in
            guard let statistics = program?.statistics() else { return 0 }
            return statistics.residentBytes + statistics.remoteBytes
        }
        program.setMemory(figures)
        plan.memoryInformation = procTree?.addMemory(figures, of: program.id) ?? ""
    }

    /// A program that may run on no CPU of this host cannot run.
    private func checkProcessors(_ wanted: [UInt64]) throws(SandboxFailure) {
        if wanted.isEmpty { return }
        var here = [UInt64](repeating: 0, count: WireLimit.processorWords_max)
        _ = lego_thread_get_affinity(0, &here, here.count)
        let missing = ProcessorSet(words: wanted).subtracting(ProcessorSet(words: here))
        if missing.isEmpty { return }
        throw SandboxFailure(
            "\(hooks.name()) has no CPU \(missing); --cpus may name \(ProcessorSet(words: here))", exitStatus: 125)
    }

    /// Gives a loaded program its memory and its thread.
    private func run(
        _ program: Program, _ request: ManagerProcessorStart, _ sandbox: Sandbox, _ streams: consuming DaemonStreams
    ) throws(KernelError) {
        let wake = try EventDescriptor()
        guard let listener = sandbox.takeListener() else { throw KernelError("listener", EBADF) }
        var seat = ProgramSeat(
            program: program.id, name: program.name, initProcess: sandbox.initProcess, guardian: sandbox.faultSocket,
            limitBytes: request.excacheBytes)
        seat.quotaBytes = request.memoryBytes
        seat.processors = ProcessorSet(words: request.processors)
        seat.user = request.user
        seat.procTree = procTree
        seat.memory = program.memoryFigures
        let memory = try engine.makeMemory(for: seat, listener: listener) { program.end($0) }
        do {
            try memory.start()
        } catch {
            sandbox.kill()
            sandbox.reap()
            memory.stop()
            throw error
        }
        let life = Program.Life(sandbox: sandbox, memory: memory, wake: wake)
        program.begin(life)
        switch table.add(program) {
        case .run: break
        case .cancelled: program.end(.refused("it was killed while it started"))
        case .closed: program.end(.shutdown("\(hooks.name()) was shut down"))
        }
        do {
            program.runs(on: try thread(of: program, life, streams))
        } catch {
            sandbox.kill()
            program.leave()
            memory.stop()
            table.remove(program.id)
            throw error
        }
        logger.info(
            "program started",
            metadata: ["program": "\(program.id)", "name": "\(program.name)", "process": "\(sandbox.program)"])
    }

    private func thread(of program: Program, _ life: Program.Life, _ streams: consuming DaemonStreams)
        throws(KernelError) -> KernelThread
    {
        let handover = Handover(streams)
        let (logger, reports, table, prepared) = (logger, reports, table, prepared)
        let limit = configuration.attachLimit
        let tree = procTree
        let logBytes_max = Int(clamping: configuration.logBytes_max)
        return try KernelThread(name: "lego-program") {
            guard let streams = handover.take() else { return }
            var loop = ProgramLoop(
                program, life, streams: streams, attachLimit: limit, logBytes_max: logBytes_max,
                logger: logger
            ) {
                reports.add($0)
            }
            loop.run()
            prepared.hasten()
            tree?.removeMemory(of: program.id)
            table.ended(program.id)
        }
    }
}

/// What the service asks of the daemon around it. All may be called on any thread.
public struct ProcessorHooks: Sendable {
    /// The component's name, as the manager knows it.
    public var name: @Sendable () -> String
    /// Whether a peer is the manager.
    public var isManager: @Sendable (LitePeer) -> Bool
    /// The tree that programs get as their root; nil while no storage component is there.
    public var tree: @Sendable () -> StorageTree?
    /// Has the tree show what was done to it before.
    public var refreshTree: @Sendable () -> Void
    /// Tells the manager how a program ended; false when it did not take the report within a deadline of some seconds.
    public var report: @Sendable (ProcessorManagerReport) -> Bool

    public init(
        name: @escaping @Sendable () -> String, isManager: @escaping @Sendable (LitePeer) -> Bool,
        tree: @escaping @Sendable () -> StorageTree?, refreshTree: @escaping @Sendable () -> Void = {},
        report: @escaping @Sendable (ProcessorManagerReport) -> Bool
    ) {
        self.name = name
        self.isManager = isManager
        self.tree = tree
        self.refreshTree = refreshTree
        self.report = report
    }
}

/// Carries something with one owner into the thread that owns it.
final class Handover<Value: ~Copyable>: Sendable {
    private let value: Mutex<Value?>

    init(_ value: consuming sending Value) { self.value = Mutex(value) }

    func take() -> sending Value? { value.withLock { $0.take() } }
}
