import Kernel
import Logging
import Synchronization
import Wire

/// All memory of one program: the address spaces of its processes, their page faults and their trapped system calls,
/// from the first process's exec to the last one's end. One thread serves them all.
public final class ProgramMonitor: Sendable {
    private let core: MonitorCore
    private let mailbox: MonitorMailbox
    private enum Phase {
        case ready
        case running(KernelThread)
        case stopped
    }
    private let phase = Mutex<Phase>(.ready)

    /// - Parameters:
    ///   - listener: the seccomp listener of the sandbox, whose filter is `SystemCallFilter`.
    ///   - initProcess: the sandbox's first process, in this process's pid namespace.
    ///   - guardian: a Unix socket; it gets a duplicate of every userfaultfd with the byte `u`, and must keep them until
    ///     the sandbox is dead, so that no page reads as zero after this process was killed. Not closed here. Negative:
    ///     none.
    ///   - limitBytes: the program's own limit of local memory, 0: the cache's.
    ///   - onFatal: called once, on the monitor's thread, when the rack must end the program. It must not call back.
    public init(
        program: ProgramID, name: String, listener: consuming Descriptor, initProcess: Int32, guardian: Int32,
        cache: ExCache, remote: RemoteMemory, limitBytes: UInt64, logger: Logger,
        onFatal: @escaping @Sendable (ProgramFailure) -> Void
    ) throws(KernelError) {
        mailbox = try MonitorMailbox()
        core = try MonitorCore(
            program: program, name: name, listener: listener, initProcess: initProcess, guardian: guardian,
            cache: cache,
            remote: remote, limitBytes: limitBytes, mailbox: mailbox, logger: logger, onFatal: onFatal)
    }

    /// Starts the monitor's thread. Once; before the program may run.
    public func start() throws(KernelError) {
        try phase.withLock { phase throws(KernelError) in
            guard case .ready = phase else { return }
            let core = core
            phase = .running(try KernelThread(name: "monitor\(core.program)") { core.run() })
        }
    }

    /// The program's counters. Any thread; takes a short lock.
    public func statistics() -> ProgramStatistics { mailbox.counters.snapshot() }

    /// Tells that a memory component was lost. Any thread.
    public func memoryLost(_ node: NodeID) {
        mailbox.lost.withLock { $0.append(node) }
        mailbox.wake.signal()
    }

    /// The kernel is about to write a core file of a process of the program, which stands still: waits until all of its
    /// memory is local, because the kernel fetches none. Any thread.
    public func prepareCore(process: Int32, until deadline: Deadline) {
        guard let request = try? CoreRequest(process: process) else { return }
        mailbox.cores.withLock { $0.append(request) }
        mailbox.wake.signal()
        _ = request.wait(until: deadline)
    }

    /// Ends the thread and releases the program's remote memory. Call it when the sandbox is dead. Idempotent; waits.
    public func stop() {
        mailbox.isStopping.store(true, ordering: .releasing)
        mailbox.wake.signal()
        let former = phase.withLock { phase in
            let former = phase
            phase = .stopped
            return former
        }
        switch former {
        case .running(let thread): thread.join()
        case .ready: core.finish()
        case .stopped: break
        }
    }
}
