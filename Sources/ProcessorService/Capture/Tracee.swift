import CLinux
import Glibc
import Kernel

/// A thread of the program that the monitor holds by ptrace while it injects: stopped, its signals kept back, its
/// registers saved. `letGo` puts everything back. Owned by the monitor thread, which is the tracer.
struct Tracee: ~Copyable {
    enum Failure: Error {
        /// The thread has died: its program needs nothing any more.
        case gone
        /// Another process traces it, or it may not have what an agent needs: its memory is the kernel's.
        case unavailable
        /// The agent was killed before it was known. The thread shall make its call again, and with it the injection.
        case agentKilled
        case failed(String)
    }

    /// How long whoever waits for a thread looks again at once: what it waits for mostly takes less.
    static let impatience: Duration = .microseconds(200)

    let thread: Int32
    /// What it shall go on with.
    var saved = lego_registers()
    private var mask: UInt64 = 0
    private var holdsMask = false
    /// A stop signal that arrived meanwhile, delivered at the end: no mask keeps SIGSTOP back.
    private var pendingSignal: Int32 = 0
    private var isSeized = true

    /// Seizes a thread and asks it to stop; `stop` waits for it.
    init(seizing thread: Int32) throws(Failure) {
        self.thread = thread
        let seized = lego_ptrace_seize(thread)
        if seized == -EPERM {
            isSeized = false
            throw .unavailable
        }
        try Self.check("PTRACE_SEIZE", seized)
        let result = lego_ptrace_interrupt(thread)
        if result < 0 {
            _ = lego_ptrace_release(thread, 0)
            isSeized = false
            try Self.check("PTRACE_INTERRUPT", result)
        }
    }

    /// A thread that was left seized goes on with what its registers say. One that cannot be let go at once is when the
    /// monitor's loop sweeps.
    deinit { if isSeized { _ = lego_ptrace_release(thread, pendingSignal) } }

    private static func check(_ call: String, _ result: Int32) throws(Failure) {
        if result >= 0 { return }
        if result == -ESRCH { throw .gone }
        throw .failed("\(call): \(KernelError.text(-result))")
    }

    /// Waits until it has stopped in the manner wanted. Ptrace stops have no descriptor to wait for, so this looks
    /// again and again: at once for a while (`impatience`), then after `idle`, which takes up to a millisecond and
    /// serves the program's faults.
    mutating func waitForStop(_ wanted: lego_stop, until deadline: Deadline, idle: () -> Void) throws(Failure) {
        let impatient = Deadline.after(Self.impatience)
        while true {
            var signal: Int32 = 0
            let found = lego_ptrace_poll(thread, &signal)
            switch UInt32(bitPattern: found) {
            case LEGO_STOP_NONE.rawValue:
                if deadline.hasPassed { throw .failed("a thread of the program does not stop") }
                if impatient.hasPassed { idle() } else { sched_yield() }
            case wanted.rawValue: return
            case LEGO_STOP_GONE.rawValue:
                isSeized = false
                throw .gone
            case LEGO_STOP_SIGNAL.rawValue:
                if signal == SIGSEGV || signal == SIGBUS || signal == SIGILL {
                    throw .failed("the agent raised signal \(signal) while it was injected")
                }
                pendingSignal = signal
                try Self.check("PTRACE_CONT", lego_ptrace_continue(thread, 0))
            default: try Self.check("PTRACE_CONT", lego_ptrace_continue(thread, 0))
            }
        }
    }

    /// Looks at a thread that was let run and shall not stop: whatever stops it all the same is passed over.
    mutating func keepRunning() throws(Failure) {
        var signal: Int32 = 0
        switch UInt32(bitPattern: lego_ptrace_poll(thread, &signal)) {
        case LEGO_STOP_NONE.rawValue: return
        case LEGO_STOP_GONE.rawValue:
            isSeized = false
            throw .gone
        case LEGO_STOP_SIGNAL.rawValue where signal == SIGSEGV || signal == SIGBUS || signal == SIGILL:
            throw .failed("a thread raised signal \(signal) at \(String(try registers().rip, radix: 16))")
        case LEGO_STOP_SIGNAL.rawValue: pendingSignal = signal
        default: break
        }
        try Self.check("PTRACE_CONT", lego_ptrace_continue(thread, 0))
    }

    /// Whether it has died, which may be why something else about it failed. Waits some milliseconds for the news.
    mutating func hasDied() -> Bool {
        for _ in 0..<20 {
            var signal: Int32 = 0
            if UInt32(bitPattern: lego_ptrace_poll(thread, &signal)) == LEGO_STOP_GONE.rawValue {
                isSeized = false
                return true
            }
            _ = poll(nil, 0, 1)
        }
        return false
    }

    /// Remembers the registers as they are.
    mutating func save() throws(Failure) { saved = try registers() }

    func registers() throws(Failure) -> lego_registers {
        var registers = lego_registers()
        try Self.check("PTRACE_GETREGS", lego_ptrace_get_registers(thread, &registers))
        return registers
    }

    /// Keeps signals back until `letGo`.
    mutating func holdSignals() throws(Failure) {
        if holdsMask { return }
        try Self.check("PTRACE_GETSIGMASK", lego_ptrace_get_signal_mask(thread, &mask))
        try Self.check("PTRACE_SETSIGMASK", lego_ptrace_set_signal_mask(thread, .max))
        holdsMask = true
    }

    /// Asks a running thread to stop.
    func interrupt() throws(Failure) { try Self.check("PTRACE_INTERRUPT", lego_ptrace_interrupt(thread)) }

    /// Lets it run from `registers`.
    func run(_ registers: lego_registers) throws(Failure) {
        var registers = registers
        registers.orig_rax = .max
        try Self.check("PTRACE_SETREGSET", lego_ptrace_set_registers(thread, &registers))
        try Self.check("PTRACE_CONT", lego_ptrace_continue(thread, 0))
    }

    /// Has it execute one system call whose instruction is at `instruction`, and answers the result.
    mutating func call(
        _ number: UInt32, at instruction: UInt64, _ a: UInt64, _ b: UInt64, _ c: UInt64, _ d: UInt64, _ e: UInt64,
        _ f: UInt64, until deadline: Deadline, idle: () -> Void
    ) throws(Failure) -> Int64 {
        var registers = saved
        registers.rip = UInt64(instruction)
        registers.rax = UInt64(number)
        registers.orig_rax = .max
        (registers.rdi, registers.rsi, registers.rdx) = (a, b, c)
        (registers.r10, registers.r8, registers.r9) = (d, e, f)
        try Self.check("PTRACE_SETREGSET", lego_ptrace_set_registers(thread, &registers))
        for _ in 0..<2 {
            try Self.check("PTRACE_SYSCALL", lego_ptrace_continue_to_syscall(thread))
            try waitForStop(LEGO_STOP_SYSCALL, until: deadline, idle: idle)
        }
        return Int64(bitPattern: try self.registers().rax)
    }

    /// Puts registers and signals back and lets it go.
    mutating func letGo() throws(Failure) {
        if holdsMask { try Self.check("PTRACE_SETSIGMASK", lego_ptrace_set_signal_mask(thread, mask)) }
        try Self.check("PTRACE_SETREGSET", lego_ptrace_set_registers(thread, &saved))
        // A thread that was killed meanwhile is still seized.
        try Self.check("PTRACE_DETACH", lego_ptrace_detach(thread, pendingSignal))
        isSeized = false
    }
}
