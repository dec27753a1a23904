import CLinux
import Glibc
import Kernel
import Synchronization

/// The namespaces of one program, its guardian process and its first process. The guardian (`lego-sandbox`) is this
/// daemon's child; everything else is inside and dies with it or with this daemon. Calls are safe on any thread unless
/// they say otherwise.
public final class Sandbox: Sendable {
    /// Host number of the namespace's first process.
    public let initProcess: Int32
    /// Host number of the program's first process.
    public let program: Int32
    private let control: Descriptor
    private let faults: Descriptor
    private let guardian: Descriptor
    private let programPidfd: Descriptor
    private let listener: Mutex<Descriptor?>
    private let terminal: Mutex<Descriptor?>
    private let reaped = Mutex(false)

    /// How a sandbox ended.
    public enum End: Equatable, Sendable {
        /// The program's first process has ended; the others are being killed, and another report follows.
        case beginning
        /// The program's first process ended with this status as wait(2) tells it; no process is left.
        case program(status: Int32)
        /// The guardian was killed; the kernel has killed, or is killing, the program.
        case guardianLost
    }

    private init(guardian: consuming Guardian, ready: consuming Ready) {
        initProcess = ready.initProcess
        program = ready.program
        var ready = ready
        terminal = Mutex(ready.terminal.take())
        listener = Mutex(Optional(ready.listener))
        programPidfd = ready.programPidfd
        control = guardian.control
        faults = guardian.faults
        self.guardian = guardian.process
    }

    deinit { Self.end(guardian: guardian.raw, control: control.raw, unless: reaped.withLock { $0 }) }

    /// Starts a program up to its first instruction, where it waits for `release`. Blocks for as long as building the
    /// namespaces and loading the program takes, at most `limit` and a little; what `prepared` holds is built already.
    /// `executable` is the path of lego-sandbox.
    public static func launch(
        executable: String, plan: SandboxPlan, streams: consuming StandardStreams, limit: Duration,
        prepared: PreparedSandbox? = nil
    ) throws(SandboxFailure) -> Sandbox {
        let payload = try plan.payload()
        let guardian: Guardian
        if let ready = prepared?.take(plan.preparation) {
            guardian = ready
        } else {
            do {
                guardian = try Guardian(executable: executable)
            } catch { throw SandboxFailure(error, during: executable) }
            do {
                try guardian.prepare(plan.preparation)
            } catch {
                end(guardian: guardian.process.raw, control: guardian.control.raw, unless: false)
                throw SandboxFailure(error, during: "start message")
            }
        }
        do throws(SandboxFailure) {
            do {
                try streams.give(to: plan.user, group: plan.group)
                try guardian.start(plan, payload: payload, streams: streams, limit: limit)
            } catch { throw SandboxFailure(error, during: "start message") }
            _ = consume streams
            let ready = try guardian.awaitReady(plan, until: .after(limit + .seconds(2)))
            return Sandbox(guardian: guardian, ready: ready)
        } catch {
            end(guardian: guardian.process.raw, control: guardian.control.raw, unless: false)
            throw error
        }
    }

    /// The listener of the program's system call filter. Answers it once.
    public func takeListener() -> Descriptor? {
        listener.withLock { $0.take() }
    }

    /// The master of the program's terminal, non-blocking, where one was asked for. Answers it once.
    public func takeTerminal() -> Descriptor? {
        terminal.withLock { $0.take() }
    }

    /// Asks the guardian for a process that joins.
    func ask(_ header: inout lego_sandbox_start, _ descriptors: [Int32]) throws(KernelError) {
        let size = MemoryLayout<lego_sandbox_start>.size
        _ = try checked(
            "sendmsg", lego_send_descriptors(control.raw, &header, size, descriptors, descriptors.count))
    }

    /// The socket on which duplicates of userfault descriptors go to the guardian, each with the byte `u`.
    public var faultSocket: Int32 { faults.raw }

    /// The socket that becomes readable when `nextEnd` has something to say.
    public var controlSocket: Int32 { control.raw }

    /// Lets the program run. Once; false when it is dead already.
    public func release() -> Bool { command(Int32(LEGO_SANDBOX_GO)) }

    /// Kills every process of the program. Returns at once; the end is reported by `nextEnd`.
    public func kill() {
        if !command(Int32(LEGO_SANDBOX_KILL)) { _ = lego_pidfd_send_signal(guardian.raw, SIGKILL) }
    }

    /// Signals the program's first process, or the process group that it leads. False when it has ended.
    public func signal(_ number: Int32, group: Bool) -> Bool {
        if group, lego_pidfd_signal_group(programPidfd.raw, program, number) == 0 { return true }
        return lego_pidfd_send_signal(programPidfd.raw, number) == 0
    }

    /// Takes the report of the end, if it has arrived. Does not wait.
    public func nextEnd() -> End? {
        var report = lego_sandbox_report()
        let size = MemoryLayout<lego_sandbox_report>.size
        while true {
            let count = lego_receive_descriptors(control.raw, &report, size, nil, 0, nil, nil, Int32(MSG_DONTWAIT))
            if count == -Int(EINTR) { continue }
            if count == -Int(EAGAIN) { return nil }
            if count != size { return .guardianLost }
            if report.kind == LEGO_SANDBOX_ENDED.rawValue { return .program(status: report.status) }
            if report.kind == LEGO_SANDBOX_ENDING.rawValue { return .beginning }
        }
    }

    /// Waits for the guardian's end, which follows that of the program at once, and reaps it. Idempotent.
    public func reap() {
        reaped.withLock { reaped in
            if !reaped { Self.end(guardian: guardian.raw, control: control.raw, unless: false) }
            reaped = true
        }
    }

    private func command(_ byte: Int32) -> Bool {
        var byte = UInt8(truncatingIfNeeded: byte)
        return send(control.raw, &byte, 1, Int32(MSG_NOSIGNAL)) == 1
    }

    /// Ends a guardian and reaps it. One that does not manage to kill its program (a process in an uninterruptible
    /// wait) is killed, and the kernel then kills the program as soon as it can.
    static func end(guardian: Int32, control: Int32, unless reaped: Bool) {
        if reaped { return }
        _ = shutdown(control, Int32(SHUT_WR))
        var status: Int32 = 0
        var ended = pollfd(fd: guardian, events: Int16(POLLIN), revents: 0)
        let deadline = Deadline.after(.seconds(5))
        while poll(&ended, 1, deadline.pollMilliseconds) < 0, errno == EINTR {}
        if ended.revents == 0 { _ = lego_pidfd_send_signal(guardian, SIGKILL) }
        _ = lego_pidfd_reap(guardian, 1, &status)
    }
}
