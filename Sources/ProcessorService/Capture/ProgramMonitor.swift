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
    ///   - seat: what there is to know of the program. Its guardian is a Unix socket that gets a duplicate of every
    ///     userfaultfd with the byte `u`, and must keep them until the sandbox is dead, so that no page reads as zero
    ///     after this process was killed. Not closed here. Negative: none.
    ///   - listener: the seccomp listener of the sandbox, whose filter is `SystemCallFilter`.
    ///   - onFatal: called once, on the monitor's thread, when the rack must end the program. It must not call back.
    public init(
        seat: ProgramSeat, listener: consuming Descriptor, cache: ExCache, remote: RemoteMemory, logger: Logger,
        onFatal: @escaping @Sendable (ProgramFailure) -> Void
    ) throws(KernelError) {
        mailbox = try MonitorMailbox()
        core = try MonitorCore(
            seat: seat, listener: listener, cache: cache, remote: remote, mailbox: mailbox, logger: logger,
            onFatal: onFatal)
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

    /// Takes the listener of the filter of a process that joined the program. Any thread.
    public func join(_ listener: consuming Descriptor) {
        let raw = listener.release()
        mailbox.listeners.withLock { $0.append(raw) }
        mailbox.wake.signal()
    }

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
