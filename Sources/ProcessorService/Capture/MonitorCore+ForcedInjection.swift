import CAgent
import CLinux
import Glibc
import Kernel

/// Injection without a call of the program's to begin with.
extension MonitorCore {
    /// Injects into an address space none of whose threads has made a trapped call since it was forked: one is stopped
    /// and made to make one, as a debugger calls a function.
    func forceInjection(_ space: AddressSpace) -> Bool {
        if spaces.contains(where: { $0?.isInjecting == true }) || isAgentBusy || space.systemCallInstruction == 0 {
            return false
        }
        guard let thread = findThread(of: space) else { return false }
        space.isInjecting = true
        defer { space.isInjecting = false }
        do {
            let deadline = Deadline.after(Self.patience)
            var tracee = try Tracee(seizing: thread)
            try tracee.waitForStop(LEGO_STOP_INTERRUPT, until: deadline) { serveWhileInjecting(space) }
            // It may have been in execve(2): there is another image now, and nothing of this one at its addresses.
            if readIdentity(thread) != space.identity { return false }
            try tracee.save()
            try tracee.holdSignals()
            var registers = tracee.saved
            registers.rip = UInt64(space.systemCallInstruction)
            registers.rax = UInt64(SystemCall.brk)
            registers.rdi = 0
            try tracee.run(registers)
            let notification = try awaitNotification(of: &tracee, space, until: deadline)
            try tracee.interrupt()
            try injectAlive(notification, &tracee, isForced: true)
        } catch {
            injectionFailed(error)
        }
        return space.agent != nil
    }

    /// A thread that runs in the address space: the first of a process whose memory carries the identity.
    private func findThread(of space: AddressSpace) -> Int32? {
        for process in ProcessFiles.processes() where readIdentity(process) == space.identity {
            return ProcessFiles.threads(process).first
        }
        return nil
    }

    private func awaitNotification(
        of tracee: inout Tracee, _ space: AddressSpace, until deadline: Deadline
    ) throws(Tracee.Failure) -> lego_notification {
        while !deadline.hasPassed {
            var watched = ([listener.raw] + joinedListeners).map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            _ = poll(&watched, nfds_t(watched.count), 1)
            for ready in watched where ready.revents & Int16(POLLIN) != 0 {
                var notification = lego_notification()
                if lego_seccomp_receive(ready.fd, &notification) < 0 { continue }
                if notification.thread == tracee.thread { return notification }
                setAside.append(notification)
            }
            try tracee.keepRunning()
            serveWhileInjecting(space)
        }
        throw .failed("a forked process makes no call when it is told to")
    }
}
