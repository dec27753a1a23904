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
        /// Only the advices listed.
        case advice
        /// Only with one of these bits in that argument.
        case flags(argument: UInt32, UInt32)
        /// Only with that value in that argument.
        case value(argument: UInt32, UInt32)
        /// Only F_SETFL with O_DIRECT.
        case setDirect
        /// Refused, as a kernel without it would.
        case absent
    }

    private static let rules: [(call: UInt32, rule: Rule)] = [
        (SystemCall.mmap, .mapping), (SystemCall.brk, .always), (SystemCall.munmap, .always),
        (SystemCall.mremap, .always), (SystemCall.madvise, .advice), (SystemCall.clone, .always),
        (SystemCall.clone3, .always), (SystemCall.fork, .always), (SystemCall.vfork, .always),
        (SystemCall.setTidAddress, .always), (SystemCall.schedSetAffinity, .always),
        (SystemCall.schedGetAffinity, .always), (SystemCall.processMadvise, .absent),
        // What may pin pages for a device that writes to them.
        (SystemCall.open, .flags(argument: 1, directFlag)), (SystemCall.openat, .flags(argument: 2, directFlag)),
        (SystemCall.openByHandle, .flags(argument: 2, directFlag)), (SystemCall.openat2, .always),
        (SystemCall.fcntl, .setDirect), (SystemCall.ioSetup, .always), (SystemCall.ioUringSetup, .always),
        (SystemCall.processVmWritev, .always), (SystemCall.socket, .value(argument: 0, 44 /* AF_XDP */)),
    ]

    /// O_DIRECT.
    static let directFlag: UInt32 = 0o40000

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
        emit(ifGreaterOrEqual, 0x4000_0000, 0, 1)
        emit(answer, error(ENOSYS))
        // Jump targets: the notices lie behind the list of numbers and one `allow`.
        let tails = rules.map { tail($0.rule) }
        var target = 1
        for (index, entry) in rules.enumerated() {
            emit(ifEqual, entry.call, rules.count - 1 - index + target, 0)
            target += tails[index].count
        }
        emit(answer, allow)
        for tail in tails { code += tail }
        return code
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
        emit(answer, allow)
        switch rule {
        case .always:
            emit(answer, notify)
        case .absent:
            emit(answer, error(ENOSYS))
        case .flags(let number, let bits): notifyIf(ifAnyBit, number, bits)
        case .value(let number, let value): notifyIf(ifEqual, number, value)
        case .setDirect:
            emit(load, argument(1))
            emit(ifEqual, UInt32(F_SETFL), 1, 0)
            emit(answer, allow)
            notifyIf(ifAnyBit, 2, directFlag)
        case .mapping:
            emit(load, argument(3))
            emit(ifAnyBit, UInt32(MAP_FIXED), 2, 0)
            emit(andConstant, 0xf)
            emit(ifEqual, UInt32(MAP_PRIVATE), 0, 1)
            emit(answer, notify)
            emit(answer, allow)
        case .advice:
            emit(load, argument(2))
            for (index, advice) in Advice.trapped.enumerated() {
                emit(ifEqual, advice, Advice.trapped.count - index, 0)
            }
            emit(answer, allow)
            emit(answer, notify)
        }
        return code
    }

    /// The filter as bytes, for the sandbox.
    public static func bytes() -> [UInt8] {
        program().flatMap { word in (0..<8).map { UInt8(truncatingIfNeeded: word >> (8 * UInt64($0))) } }
    }
}

/// System call numbers of x86-64.
enum SystemCall {
    static let open: UInt32 = 2
    static let mmap: UInt32 = 9
    static let munmap: UInt32 = 11
    static let brk: UInt32 = 12
    static let mremap: UInt32 = 25
    static let madvise: UInt32 = 28
    static let socket: UInt32 = 41
    static let clone: UInt32 = 56
    static let fork: UInt32 = 57
    static let vfork: UInt32 = 58
    static let fcntl: UInt32 = 72
    static let schedSetAffinity: UInt32 = 203
    static let schedGetAffinity: UInt32 = 204
    static let ioSetup: UInt32 = 206
    static let setTidAddress: UInt32 = 218
    static let openat: UInt32 = 257
    static let openByHandle: UInt32 = 304
    static let processVmWritev: UInt32 = 311
    static let ioUringSetup: UInt32 = 425
    static let clone3: UInt32 = 435
    static let openat2: UInt32 = 437
    static let processMadvise: UInt32 = 440
}

/// madvise(2) advices that change what memory holds.
enum Advice {
    static let dontNeed: UInt32 = 4
    static let free: UInt32 = 8
    static let mergeable: UInt32 = 12
    static let wipeOnFork: UInt32 = 18
    static let keepOnFork: UInt32 = 19
    static let dontNeedLocked: UInt32 = 24
    static let collapse: UInt32 = 25
    static let guardInstall: UInt32 = 102

    static let trapped = [dontNeed, free, mergeable, wipeOnFork, keepOnFork, dontNeedLocked, collapse, guardInstall]
}
