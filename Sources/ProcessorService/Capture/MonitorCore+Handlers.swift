import CAgent
import CLinux
import Glibc
import Kernel

/// Handlers of signals that were installed without `SA_RESTART`.
///
/// A thread that waits for the answer to a trapped call can be interrupted until this monitor has received the
/// notification (seccomp_unotify(2); `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` holds from then on only). The kernel
/// makes the call again after the handler, but where the handler was installed without `SA_RESTART`: there it answers
/// EINTR, which no mmap(2) or fork(2) ever does on Linux, and no program expects.
///
/// So the kernel is told `SA_RESTART` for every handler, and what the program meant is done when the handler returns.
/// Its return address is `lego_agent_restorer`, whose rt_sigreturn(2) is trapped. The frame that it goes back to then
/// says which call was interrupted and is about to be made again. If that is one that the filter traps, so be it; any
/// other is made to answer EINTR. A handler that leaves by siglongjmp(3) has abandoned its call either way.
///
/// A program that only asks for an action is told what it installed (siginterrupt(3) changes that, and installs it again).
/// Where it gets the action with another's installation, or in a forked child, the kernel tells: with `SA_RESTART` and the
/// mark, which is understood when it comes back.
extension MonitorCore {
    /// struct kernel_sigaction.
    struct Action {
        var handler: UInt64 = 0
        var flags: UInt64 = 0
        var restorer: UInt64 = 0
        var mask: UInt64 = 0
    }
    private static let maskBytes: UInt64 = 8
    private static let restarts: UInt64 = 0x1000_0000
    /// SA_RESETHAND: the kernel changes the action by itself.
    private static let resets: UInt64 = 0x8000_0000
    private static let hasRestorer: UInt64 = 0x0400_0000
    /// SA_EXPOSE_TAGBITS, which means nothing on x86-64 and which the kernel keeps: the mark of a `SA_RESTART` that is
    /// not the program's. A program that reads an action to install it again so says what it meant.
    private static let mark: UInt64 = 0x800
    private static let restorer = UInt64(LEGO_AGENT_BASE) + lego_agent_restorer_offset()

    func isOfHandlers(_ notification: lego_notification) -> Bool {
        notification.number == SystemCall.rtSigaction || notification.number == SystemCall.rtSigreturn
    }

    /// Answers rt_sigaction(2) and the restorer's rt_sigreturn(2), which need no agent: a forked child that has none
    /// sets its handlers before it executes something else. False where the caller's image never had one.
    func carryOutHandlers(_ notification: lego_notification) -> Bool {
        guard let words = readAgentPage(notification.thread), words.nonce == nonce else { return false }
        if notification.number == SystemCall.rtSigreturn {
            returnFromHandler(notification)
        } else if notification.arguments.1 != 0 {
            takeAction(notification, space(identity: words.identity))
        } else if tellAction(notification, space(identity: words.identity)) {
            return true
        }
        _ = lego_seccomp_continue(notification.listener, notification.id)
        return true
    }

    // MARK: Installation

    private func takeAction(_ notification: lego_notification, _ space: AddressSpace?) {
        let signal = notification.arguments.0
        let meant = changeAction(notification)
        guard let space, meant != nil || space.actions.has(signal) else { return }
        let process = ProcessFiles.process(ofThread: notification.thread)
        let isUser = space.users.contains { $0.process == process }
        space.actions.set(isUser ? meant : nil, signal, of: process)
    }

    /// Changes the action that the kernel is about to read. It lies on the caller's stack: a C library has filled it
    /// from the program's. Answers what the program meant, where that was changed and stays until the next call.
    private func changeAction(_ notification: lego_notification) -> Action? {
        let a = notification.arguments
        var action = Action()
        guard a.3 == Self.maskBytes, access(notification.thread, a.1, &action, isWrite: false) else { return nil }
        let isHandler = action.handler > 1  // SIG_DFL, SIG_IGN
        let isMarked = action.flags & Self.mark != 0
        guard isHandler, action.flags & Self.hasRestorer != 0, isMarked || action.flags & Self.restarts == 0 else {
            return nil
        }
        var meant = action
        meant.flags &= ~(Self.restarts | Self.mark)
        action.flags |= Self.restarts | Self.mark
        action.restorer = Self.restorer
        let isChanged = access(notification.thread, a.1, &action, isWrite: true)
        return isChanged && meant.flags & Self.resets == 0 ? meant : nil
    }

    /// Answers a question for an action that this monitor has changed; false where it is the kernel's to answer.
    private func tellAction(_ notification: lego_notification, _ space: AddressSpace?) -> Bool {
        let a = notification.arguments
        guard a.2 != 0, a.3 == Self.maskBytes, let space, space.actions.has(a.0),
            var action = space.actions.action(a.0, of: ProcessFiles.process(ofThread: notification.thread)),
            access(notification.thread, a.2, &action, isWrite: true)
        else { return false }
        _ = lego_seccomp_answer(notification.listener, notification.id, 0)
        return true
    }

    // MARK: Return

    /// The registers of a signal's frame (struct sigcontext), at that offset from the stack pointer of rt_sigreturn(2).
    private struct Registers {
        var r8: UInt64 = 0, r9: UInt64 = 0, r10: UInt64 = 0, r11: UInt64 = 0
        var r12: UInt64 = 0, r13: UInt64 = 0, r14: UInt64 = 0, r15: UInt64 = 0
        var rdi: UInt64 = 0, rsi: UInt64 = 0, rbp: UInt64 = 0, rbx: UInt64 = 0
        var rdx: UInt64 = 0, rax: UInt64 = 0, rcx: UInt64 = 0, rsp: UInt64 = 0, rip: UInt64 = 0
    }
    private static let registersOffset: UInt64 = 40
    private static let instructionBytes: UInt64 = 2

    private func returnFromHandler(_ notification: lego_notification) {
        guard let stack = ProcessFiles.stackPointer(ofWaiting: notification.thread, until: .after(Self.frameWait))
        else {
            return
        }
        var frame = Registers()
        guard access(notification.thread, stack &+ Self.registersOffset, &frame, isWrite: false) else { return }
        // The instruction leaves the address behind it in rcx: that address again says that the call was made, and is
        // to be made again.
        guard frame.rcx == frame.rip &+ Self.instructionBytes, !Self.isNeverInterrupted(frame) else { return }
        frame.rax = UInt64(bitPattern: -Int64(EINTR))
        frame.rip = frame.rcx
        _ = access(notification.thread, stack &+ Self.registersOffset, &frame, isWrite: true)
    }
    /// The thread has made its call, and is at most not asleep yet.
    private static let frameWait: Duration = .milliseconds(100)

    /// Whether the interrupted call is one that does not answer EINTR natively: what the filter traps, and what the
    /// kernel always makes again.
    private static func isNeverInterrupted(_ frame: Registers) -> Bool {
        func has(_ flags: UInt64) -> Bool { flags & UInt64(SystemCallFilter.directFlag) != 0 }
        switch UInt32(truncatingIfNeeded: frame.rax) {
        case SystemCall.fcntl: return Int32(truncatingIfNeeded: frame.rsi) == F_SETFL
        case SystemCall.ioctl: return UInt32(truncatingIfNeeded: frame.rsi) == SystemCallFilter.registerRequest
        case SystemCall.open: return has(frame.rsi)
        case SystemCall.openat, SystemCall.openByHandle: return has(frame.rdx)
        // That of a pipe may wait, and its flags are in the program's memory.
        case SystemCall.openat2: return false
        case SystemCall.futex:
            let operation = UInt32(truncatingIfNeeded: frame.rsi) & FutexOperation.mask
            return operation == FutexOperation.lock || operation == FutexOperation.lock2
        case let number: return SystemCallFilter.traps(number)
        }
    }

    // MARK: Memory

    /// Reads or writes a value in the memory of a thread that may have no agent, without waiting for a fault.
    private func access<Value: BitwiseCopyable>(
        _ thread: Int32, _ address: UInt64, _ value: inout Value, isWrite: Bool
    ) -> Bool {
        guard let memory = try? ProcessFiles.open(thread, "mem", writable: isWrite) else { return false }
        func attempt() -> Bool {
            withUnsafeMutableBytes(of: &value) { bytes in
                let offset = off_t(truncatingIfNeeded: address)
                let count =
                    isWrite
                    ? pwrite(memory.raw, bytes.baseAddress, bytes.count, offset)
                    : pread(memory.raw, bytes.baseAddress, bytes.count, offset)
                return count == bytes.count
            }
        }
        if attempt() { return true }
        // It has left meanwhile, or is write-protected.
        guard let space = space(identity: readIdentity(thread)), !space.isDead else { return false }
        for page in Page.range(address & ~4095, UInt64(MemoryLayout<Value>.size) + (address & 4095)) {
            bring(space, page)
        }
        noteResident()
        return attempt()
    }
}

/// The actions of one process, as it meant them, of the signals whose handlers were installed without `SA_RESTART`.
struct SignalActions {
    private var actions: [UInt64: MonitorCore.Action] = [:]
    /// The process. Others may run in the same memory until they execute something, and have actions of their own.
    private var process: Int32 = 0

    func has(_ signal: UInt64) -> Bool { actions[signal] != nil }

    func action(_ signal: UInt64, of process: Int32) -> MonitorCore.Action? {
        process == self.process ? actions[signal] : nil
    }

    /// nil: it is as the kernel tells it.
    mutating func set(_ action: MonitorCore.Action?, _ signal: UInt64, of process: Int32) {
        if self.process == 0 && action != nil { self.process = process }
        if self.process == process { actions[signal] = action }
    }
}
