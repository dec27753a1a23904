import CLinux
import Glibc
import Kernel
import Wire

/// A process that has joined a program: started by the first process of its namespaces, in those, under a filter of its
/// own. The socket tells its end; the socket's own end is the program's.
struct JoinedProcess: ~Copyable {
    let socket: Descriptor
    let pidfd: Descriptor
    /// Its number in the daemon's namespace.
    let process: Int32
    private var listener: Descriptor?
    /// The master of its terminal, non-blocking, where one was asked for.
    private var terminal: Descriptor?

    fileprivate init(
        socket: consuming Descriptor, pidfd: consuming Descriptor, process: Int32, listener: consuming Descriptor,
        terminal: consuming Descriptor?
    ) {
        self.socket = socket
        self.pidfd = pidfd
        self.process = process
        self.listener = consume listener
        self.terminal = terminal
    }

    mutating func takeListener() -> Descriptor? { listener.take() }
    mutating func takeTerminal() -> Descriptor? { terminal.take() }

    /// Signals the process, or the process group that it leads. False when it has ended.
    borrowing func signal(_ number: Int32, group: Bool) -> Bool {
        if group, lego_pidfd_signal_group(pidfd.raw, process, number) == 0 { return true }
        return lego_pidfd_send_signal(pidfd.raw, number) == 0
    }

    enum End: Equatable {
        /// As wait(2) tells it.
        case status(Int32)
        /// With the whole program.
        case programEnded
    }

    /// Takes the report of the end, if it has arrived. Does not wait.
    borrowing func nextEnd() -> End? {
        var report = lego_sandbox_report()
        let size = MemoryLayout<lego_sandbox_report>.size
        while true {
            let count = lego_receive_descriptors(socket.raw, &report, size, nil, 0, nil, nil, Int32(MSG_DONTWAIT))
            if count == -Int(EINTR) { continue }
            if count == -Int(EAGAIN) { return nil }
            if count != size { return .programEnded }
            if report.kind == LEGO_SANDBOX_INNER_ENDED.rawValue { return .status(report.status) }
        }
    }
}

extension Sandbox {
    /// Starts a process in the program's namespaces; it may run when this comes back. Blocks for as long as loading it
    /// takes, at most `limit`. The listener of its filter must be served from then on.
    func join(plan: SandboxPlan, streams: consuming StandardStreams, limit: Duration) throws(SandboxFailure)
        -> JoinedProcess
    {
        let payload = try plan.payload()
        let deadline = Deadline.after(limit)
        let socket: Descriptor
        do {
            try streams.give(to: plan.user, group: plan.group)
            let ends = try SocketPair()
            _ = try checked("SO_PASSCRED", lego_socket_pass_credentials(ends.ours.raw))
            let file = try MemoryFile(name: "lego-start", bytes: payload.count)
            payload.withUnsafeBytes { file.base.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
            var header = plan.header(payloadBytes: payload.count, setup: limit)
            let descriptors = [
                streams.input.raw, streams.output.raw, streams.error.raw, file.descriptor, ends.theirs.raw,
            ]
            try ask(&header, descriptors)
            socket = ends.takeOurs()
        } catch { throw SandboxFailure(error, during: "the program's guardian") }
        _ = consume streams
        return try awaitJoined(plan, socket, until: deadline)
    }

    /// Waits for the listener, then for the process to have been loaded.
    private func awaitJoined(_ plan: SandboxPlan, _ socket: consuming Descriptor, until deadline: Deadline)
        throws(SandboxFailure) -> JoinedProcess
    {
        var listener: Descriptor?
        var process: Int32 = 0
        while true {
            var waited = pollfd(fd: socket.raw, events: Int16(POLLIN), revents: 0)
            while poll(&waited, 1, deadline.pollMilliseconds) < 0, errno == EINTR {}
            if waited.revents == 0 {
                if process > 0 { killStarted(process) }
                throw SandboxFailure("it could not be loaded in time; is \(plan.rootName) overloaded or lost?")
            }
            var report = lego_sandbox_report()
            var sender = lego_peer_credentials()
            var descriptors: [Int32] = [-1, -1]
            var count = 0
            let size = MemoryLayout<lego_sandbox_report>.size
            let received = lego_receive_descriptors(socket.raw, &report, size, &descriptors, 2, &count, &sender, 0)
            if received != size { throw SandboxFailure("the program has ended", exitStatus: 125) }
            var first: Descriptor? = count > 0 ? Descriptor(taking: descriptors[0]) : nil
            var second: Descriptor? = count > 1 ? Descriptor(taking: descriptors[1]) : nil
            switch report.kind {
            case LEGO_SANDBOX_INNER_FILTERED.rawValue where count == 1:
                process = sender.pid
                listener = first.take()
                try keep(listener)
            case LEGO_SANDBOX_INNER_HELD.rawValue where count >= 1:
                guard let pidfd = first.take(), let filter = listener.take() else {
                    throw SandboxFailure("the program's first process answers what is not understood")
                }
                return JoinedProcess(
                    socket: socket, pidfd: pidfd, process: process, listener: filter, terminal: second.take())
            default: throw SandboxFailure(report, plan: plan)
            }
        }
    }

    /// The guardian keeps the listener open, too, so that no trapped call fails when this process is killed.
    private func keep(_ listener: borrowing Descriptor?) throws(SandboxFailure) {
        var raw: Int32 =
            switch listener {
            case .some(let listener): listener.raw
            case .none: -1
            }
        var byte = UInt8(truncatingIfNeeded: Int(LEGO_SANDBOX_FAULT_DESCRIPTOR))
        let sent = lego_send_descriptors(faultSocket, &byte, 1, &raw, 1)
        if sent < 0 { throw SandboxFailure(KernelError("sendmsg", Int32(-sent)), during: "the program's guardian") }
    }

    private func killStarted(_ process: Int32) {
        let pidfd = lego_pidfd_open(process)
        if pidfd < 0 { return }
        _ = lego_pidfd_send_signal(pidfd, SIGKILL)
        close(pidfd)
    }
}
