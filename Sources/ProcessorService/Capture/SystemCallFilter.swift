import CAgent
import Glibc

/// The seccomp filter under which a program runs: system calls that change its private memory, or that would escape the
/// processor's sight, ask the monitor; all others are the kernel's alone.
///
/// A call that is not trapped is allowed before anything but the architecture and the number is looked at, so that the
/// kernel finds a constant answer for it once and never runs the filter again (seccomp's action cache).
public enum SystemCallFilter {
    private static let allow: UInt32 = 0x7fff_0000
    private static let notify: UInt32 = 0x7fc0_0000
    private static func error(_ number: Int32) -> UInt32 { 0x0005_0000 | UInt32(number) }

    // Classic BPF operations (linux/bpf_common.h).
    private static let load: UInt16 = 0x20
    private static let andConstant: UInt16 = 0x54
    private static let answer: UInt16 = 0x06
    private static let ifEqual: UInt16 = 0x15
    private static let ifGreaterOrEqual: UInt16 = 0x35
    private static let ifAnyBit: UInt16 = 0x45

    // Offsets in struct seccomp_data.
    private static let number: UInt32 = 0
    private static let architecture: UInt32 = 4
    private static let instructionLow: UInt32 = 8
    private static let instructionHigh: UInt32 = 12
    private static func argument(_ index: UInt32) -> UInt32 { 16 + 8 * index }

    private static let x86_64: UInt32 = 0xc000_003e

    private enum Rule {
        case always
        /// Only private mappings, and those that replace others.
        case mapping
        /// Only what can be written to then, where the kernel's own mappings of files are.
        case protection
        /// Only with one of these bits in that argument.
        case flags(argument: UInt32, UInt32)
        /// Only with one of these values in that argument, or in those of its bits.
        case values(argument: UInt32, [UInt32], mask: UInt32 = .max)
        /// Only when that argument, a pointer, is not null.
        case pointer(argument: UInt32)
        /// Only F_SETFL with O_DIRECT.
        case setDirect
        /// Only from the agent's code, which no other rule looks at.
        case fromRestorer
    }

    /// The first ones are reached soonest: those whose other uses are many.
    private static let rules: [(call: UInt32, rule: Rule)] = [
        (
            SystemCall.futex,
            .values(argument: 1, FutexOperation.trapped, mask: FutexOperation.mask)
        ),
        (SystemCall.mmap, .mapping), (SystemCall.brk, .always), (SystemCall.munmap, .always),
        (SystemCall.mremap, .always), (SystemCall.mprotect, .protection), (SystemCall.pkeyMprotect, .protection),
        (SystemCall.madvise, .values(argument: 2, Advice.trapped)),
        (SystemCall.processMadvise, .values(argument: 3, Advice.trapped)),
        (SystemCall.mlockall, .always), (SystemCall.munlockall, .always),
        (SystemCall.shmat, .flags(argument: 2, UInt32(SHM_REMAP))),
        (SystemCall.clone, .always), (SystemCall.clone3, .always), (SystemCall.fork, .always),
        (SystemCall.vfork, .always), (SystemCall.exit, .always), (SystemCall.setTidAddress, .always),
        (SystemCall.setRobustList, .always),
        (SystemCall.schedSetAffinity, .always), (SystemCall.schedGetAffinity, .always),
        // What the agent, a process of its own, must know to map memory as the program would.
        (SystemCall.setrlimit, .always), (SystemCall.prlimit64, .pointer(argument: 2)),
        // Who handles faults, or reads memory where the kernel does not wait for one.
        (SystemCall.ioctl, .values(argument: 1, [registerRequest])),
        (SystemCall.ptrace, .values(argument: 0, TraceRequest.trapped)), (SystemCall.processMrelease, .always),
        (SystemCall.setns, .always),
        // What tells of the host and of helpers.
        (SystemCall.sysinfo, .always), (SystemCall.getdents64, .always),
        // Which handlers of signals interrupt calls, and how they return.
        (SystemCall.rtSigaction, .always), (SystemCall.rtSigreturn, .fromRestorer),
        // What may pin pages for a device that writes to them.
        (SystemCall.open, .flags(argument: 1, directFlag)), (SystemCall.openat, .flags(argument: 2, directFlag)),
        (SystemCall.openByHandle, .flags(argument: 2, directFlag)), (SystemCall.openat2, .always),
        (SystemCall.fcntl, .setDirect), (SystemCall.ioSetup, .always), (SystemCall.ioUringSetup, .always),
        (SystemCall.processVmWritev, .always), (SystemCall.socket, .values(argument: 0, [44 /* AF_XDP */])),
    ]

    /// O_DIRECT.
    static let directFlag: UInt32 = 0o40000
    /// UFFDIO_REGISTER.
    static let registerRequest: UInt32 = 0xc020_aa00

    /// The filter as packed `struct sock_filter`: code, jump if true, jump if false, operand.
    public static func program() -> [UInt64] {
        var code: [UInt64] = []
        func emit(_ operation: UInt16, _ operand: UInt32, _ ifTrue: Int = 0, _ ifFalse: Int = 0) {
            code.append(
                UInt64(operation) | UInt64(UInt8(ifTrue)) << 16 | UInt64(UInt8(ifFalse)) << 24 | UInt64(operand) << 32)
        }
        emit(load, architecture)
        emit(ifEqual, x86_64, 1, 0)
        emit(answer, error(ENOSYS))
        emit(load, number)
        // -1 is no call: a tracer or another filter has had it skipped.
        emit(ifEqual, .max, 2, 0)
        emit(ifGreaterOrEqual, 0x4000_0000, 0, 2)
        emit(answer, error(ENOSYS))
        emit(answer, allow)
        // Jump targets: the notices lie behind the list of numbers and one `allow`. Jumps reach 255 instructions, so rules
        // that are alike share their notice.
        var targets: [[UInt64]: Int] = [:]
        var tails: [UInt64] = []
        for (index, entry) in rules.enumerated() {
            let tail = tail(entry.rule)
            let target = targets[tail] ?? tails.count
            if targets[tail] == nil { tails += tail }
            targets[tail] = target
            emit(ifEqual, entry.call, rules.count - 1 - index + 1 + target, 0)
        }
        emit(answer, allow)
        return code + tails
    }

    /// What follows once the number is known.
    private static func tail(_ rule: Rule) -> [UInt64] {
        var code: [UInt64] = []
        func emit(_ operation: UInt16, _ operand: UInt32, _ ifTrue: Int = 0, _ ifFalse: Int = 0) {
            code.append(
                UInt64(operation) | UInt64(UInt8(ifTrue)) << 16 | UInt64(UInt8(ifFalse)) << 24 | UInt64(operand) << 32)
        }
        func notifyIf(_ comparison: UInt16, _ number: UInt32, _ operand: UInt32) {
            emit(load, argument(number))
            emit(comparison, operand, 0, 1)
            emit(answer, notify)
            emit(answer, allow)
        }
        // The agent's own calls.
        emit(load, instructionHigh)
        emit(ifEqual, UInt32(LEGO_AGENT_BASE >> 32), 0, 3)
        emit(load, instructionLow)
        emit(ifGreaterOrEqual, UInt32(LEGO_AGENT_CODE_BYTES), 1, 0)
        if case .fromRestorer = rule {
            emit(answer, notify)
            emit(answer, allow)
            return code
        }
        emit(answer, allow)
        switch rule {
        case .fromRestorer: break
        case .always:
            emit(answer, notify)
        case .flags(let number, let bits): notifyIf(ifAnyBit, number, bits)
        case .values(let number, let values, let mask):
            emit(load, argument(number))
            if mask != .max { emit(andConstant, mask) }
            for (index, value) in values.enumerated() { emit(ifEqual, value, values.count - index, 0) }
            emit(answer, allow)
            emit(answer, notify)
        case .pointer(let number):
            emit(load, argument(number))
            emit(ifEqual, 0, 0, 2)
            emit(load, argument(number) + 4)
            emit(ifEqual, 0, 1, 0)
            emit(answer, notify)
            emit(answer, allow)
        case .setDirect:
            emit(load, argument(1))
            emit(ifEqual, UInt32(F_SETFL), 1, 0)
            emit(answer, allow)
            notifyIf(ifAnyBit, 2, directFlag)
        case .protection:
            emit(load, argument(2))
            emit(ifAnyBit, UInt32(PROT_WRITE), 1, 0)
            emit(answer, allow)
            // All ranges are whole multiples of 4 GiB.
            emit(load, argument(0) + 4)
            for range in MappedFile.places {
                emit(ifGreaterOrEqual, UInt32(range.lowerBound >> 32), 0, 2)
                emit(ifGreaterOrEqual, UInt32(range.upperBound >> 32), 1, 0)
                emit(answer, notify)
            }
            emit(answer, allow)
        case .mapping:
            emit(load, argument(3))
            emit(ifAnyBit, UInt32(MAP_FIXED), 2, 0)
            emit(andConstant, 0xf)
            emit(ifEqual, UInt32(MAP_PRIVATE), 0, 1)
            emit(answer, notify)
            emit(answer, allow)
        }
        return code
    }

    /// Whether there is a rule for that call.
    static func traps(_ number: UInt32) -> Bool { rules.contains { $0.call == number } }

    /// The filter as bytes, for the sandbox.
    public static func bytes() -> [UInt8] {
        program().flatMap { word in (0..<8).map { UInt8(truncatingIfNeeded: word >> (8 * UInt64($0))) } }
    }
}
