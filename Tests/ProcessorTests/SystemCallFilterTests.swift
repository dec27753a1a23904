import Glibc
import Kernel
import Testing

@testable import ProcessorService

extension MappedFile {
    /// A file that is never read.
    static func forTests() -> MappedFile { MappedFile(Descriptor(taking: open("/dev/null", O_RDONLY | O_CLOEXEC))) }
}

/// Runs the instructions that the filter uses.
enum FilterInterpreter {
    struct Call {
        var number: UInt32
        var arguments: [UInt64] = [0, 0, 0, 0, 0, 0]
        var instruction: UInt64 = 0x5555_0000_1000
        var architecture: UInt32 = 0xc000_003e
    }
    struct Verdict {
        var action: UInt32
        /// Whether anything but the architecture and the number was looked at.
        var isConstant: Bool
    }
    static let allow: UInt32 = 0x7fff_0000
    static let notify: UInt32 = 0x7fc0_0000
    static let noSuchCall: UInt32 = 0x0005_0000 | UInt32(ENOSYS)

    static func evaluate(_ call: Call) -> Verdict? {
        var data = [UInt32](repeating: 0, count: 16)
        data[0] = call.number
        data[1] = call.architecture
        data[2] = UInt32(truncatingIfNeeded: call.instruction)
        data[3] = UInt32(truncatingIfNeeded: call.instruction >> 32)
        for (index, argument) in call.arguments.enumerated() {
            data[4 + 2 * index] = UInt32(truncatingIfNeeded: argument)
            data[5 + 2 * index] = UInt32(truncatingIfNeeded: argument >> 32)
        }
        let program = SystemCallFilter.program()
        var accumulator: UInt32 = 0
        var isConstant = true
        var at = 0
        while at < program.count {
            let word = program[at]
            let operand = UInt32(truncatingIfNeeded: word >> 32)
            at += 1
            func jump(_ condition: Bool) { at += Int(condition ? word >> 16 & 0xff : word >> 24 & 0xff) }
            switch word & 0xffff {
            case 0x20:
                if operand >= 8 { isConstant = false }
                accumulator = data[Int(operand / 4)]
            case 0x54: accumulator &= operand
            case 0x06: return Verdict(action: operand, isConstant: isConstant)
            case 0x15: jump(accumulator == operand)
            case 0x35: jump(accumulator >= operand)
            case 0x45: jump(accumulator & operand != 0)
            default: return nil
            }
        }
        return nil
    }
}

/// The seccomp filter, run by an interpreter.
@Suite struct SystemCallFilterTests {
    private typealias Call = FilterInterpreter.Call
    private static let allow = FilterInterpreter.allow
    private static let notify = FilterInterpreter.notify
    private static let noSuchCall = FilterInterpreter.noSuchCall
    private func evaluate(_ call: Call) -> FilterInterpreter.Verdict? { FilterInterpreter.evaluate(call) }

    @Test func everyCallEndsInAVerdict() throws {
        let trapped: Set<UInt32> = [
            2, 9, 10, 11, 12, 13, 15, 16, 25, 28, 30, 41, 56, 57, 58, 60, 72, 99, 101, 151, 152, 160, 202, 203, 204,
            206, 217, 218, 257, 273, 302, 304, 308, 311, 329, 425, 435, 437, 440, 448,
        ]
        for number in UInt32(0)..<600 {
            let verdict = try #require(evaluate(Call(number: number)))
            #expect(verdict.isConstant == !trapped.contains(number))
            if !trapped.contains(number) { #expect(verdict.action == Self.allow) }
        }
    }

    @Test func foreignArchitecturesAndX32DoNotExist() {
        #expect(evaluate(Call(number: 1, architecture: 0x4000_0003))?.action == Self.noSuchCall)
        #expect(evaluate(Call(number: 0x4000_0001))?.action == Self.noSuchCall)
        // No call: a tracer has had it skipped.
        #expect(evaluate(Call(number: .max))?.action == Self.allow)
    }

    @Test func mappingsAreTrappedWhenTheyArePrivateOrReplace() {
        func map(_ flags: Int32) -> UInt32? {
            evaluate(Call(number: 9, arguments: [0, 4096, 3, UInt64(flags), 0, 0]))?.action
        }
        #expect(map(MAP_PRIVATE | MAP_ANONYMOUS) == Self.notify)
        #expect(map(MAP_PRIVATE | MAP_FIXED) == Self.notify)
        #expect(map(MAP_SHARED | MAP_FIXED) == Self.notify)
        #expect(map(MAP_SHARED) == Self.allow)
        #expect(map(3) == Self.allow)  // MAP_SHARED_VALIDATE
    }

    /// Text may come to be written to. Heaps of threads grow by it, a page at a time.
    @Test func writeAccessIsTrappedWhereFilesMayBeMapped() {
        func protect(_ address: UInt64, _ protection: Int32) -> [UInt32?] {
            [UInt32(10), 329].map {
                evaluate(Call(number: $0, arguments: [address, 4096, UInt64(protection), 0, 0, 0]))?.action
            }
        }
        let access = PROT_READ | PROT_WRITE
        for address: UInt64 in [
            0x40_0000, 0xffff_f000, 0x5500_0000_0000, 0x56ff_ffff_f000, 0x7e80_0000_0000, 0x7e8f_ffff_f000,
        ] {
            #expect(protect(address, access) == [Self.notify, Self.notify])
            #expect(protect(address, PROT_READ | PROT_EXEC) == [Self.allow, Self.allow])
        }
        for address: UInt64 in [
            0x1_0000_0000, 0x54ff_ffff_f000, 0x5700_0000_0000, 0x7e7f_ffff_f000, 0x7e90_0000_0000, 0x7f00_0000_0000,
        ] {
            #expect(protect(address, access) == [Self.allow, Self.allow])
        }
    }

    @Test func advicesThatDropAreTrapped() {
        for advice in UInt64(0)..<128 {
            let isTrapped = [4, 8, 9, 10, 11, 12, 18, 19, 24, 25, 102, 103].contains(advice)
            #expect(
                evaluate(Call(number: 28, arguments: [0, 4096, advice, 0, 0, 0]))?.action
                    == (isTrapped ? Self.notify : Self.allow))
            #expect(
                evaluate(Call(number: 440, arguments: [0, 0, 1, advice, 0, 0]))?.action
                    == (isTrapped ? Self.notify : Self.allow))
        }
    }

    @Test func futexesThatTheKernelWritesToAreTrapped() {
        for operation in UInt64(0)..<14 {
            let isTrapped = [5, 6, 7, 8, 11, 12, 13].contains(operation)
            // FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME.
            for flags in [UInt64(0), 128, 256, 384] {
                #expect(
                    evaluate(Call(number: 202, arguments: [0x1000, operation | flags, 0, 0, 0, 0]))?.action
                        == (isTrapped ? Self.notify : Self.allow))
            }
        }
    }

    @Test func whatTheAgentMustKnowIsTrapped() {
        func action(_ number: UInt32, _ arguments: [UInt64]) -> UInt32? {
            evaluate(Call(number: number, arguments: arguments + [UInt64](repeating: 0, count: 6 - arguments.count)))?
                .action
        }
        // prlimit64 that sets, whichever half of the pointer is not 0.
        #expect(action(302, [0, 9, 0, 0x7fff_0000_1000]) == Self.allow)
        #expect(action(302, [0, 9, 0x1000, 0]) == Self.notify)
        #expect(action(302, [0, 9, 0x7fff_0000_0000, 0]) == Self.notify)
        #expect(action(16, [3, 0xc020_aa00]) == Self.notify)
        #expect(action(16, [3, 0x5401]) == Self.allow)
        for request: UInt64 in [0, 16, 0x4206] { #expect(action(101, [request]) == Self.notify) }
        #expect(action(101, [1]) == Self.allow)
        #expect(action(30, [1, 0, 0o40000]) == Self.notify)
        #expect(action(30, [1, 0, 0o10000]) == Self.allow)
    }

    @Test func handlersAreTrapped() {
        // rt_sigaction that asks and that sets; rt_sigreturn of the agent's restorer alone.
        #expect(evaluate(Call(number: 13, arguments: [2, 0, 0x1000, 8, 0, 0]))?.action == Self.notify)
        #expect(evaluate(Call(number: 13, arguments: [2, 0x1000, 0, 8, 0, 0]))?.action == Self.notify)
        #expect(evaluate(Call(number: 15))?.action == Self.allow)
        #expect(evaluate(Call(number: 15, instruction: 0x7e90_0000_0123))?.action == Self.notify)
        #expect(evaluate(Call(number: 15, instruction: 0x7e90_0000_4000))?.action == Self.allow)
    }

    @Test func whatMayPinPagesIsTrapped() {
        func action(_ number: UInt32, _ arguments: [UInt64]) -> UInt32? {
            evaluate(Call(number: number, arguments: arguments + [UInt64](repeating: 0, count: 6 - arguments.count)))?
                .action
        }
        let direct: UInt64 = 0o40000
        for flags in [UInt64(O_RDONLY), UInt64(O_RDWR | O_CREAT | O_CLOEXEC), 0o200000 /* O_DIRECTORY */] {
            #expect(action(2, [0, flags]) == Self.allow)
            #expect(action(2, [0, flags | direct]) == Self.notify)
            #expect(action(257, [0, direct, flags]) == Self.allow)
            #expect(action(257, [0, 0, flags | direct]) == Self.notify)
            #expect(action(304, [0, 0, flags | direct]) == Self.notify)
            #expect(action(72, [3, UInt64(F_SETFL), flags]) == Self.allow)
            #expect(action(72, [3, UInt64(F_SETFL), flags | direct]) == Self.notify)
            #expect(action(72, [3, UInt64(F_DUPFD), direct]) == Self.allow)
        }
        for number in [206, 311, 425, 437] as [UInt32] { #expect(action(number, []) == Self.notify) }
        #expect(action(41, [UInt64(AF_INET)]) == Self.allow)
        #expect(action(41, [44 /* AF_XDP */]) == Self.notify)
    }

    @Test func theAgentIsNotTrapped() {
        for number in [9, 11, 12, 25, 28, 56, 302] as [UInt32] {
            let arguments: [UInt64] = [0, 4096, 4, UInt64(MAP_PRIVATE), 0, 0]
            #expect(
                evaluate(Call(number: number, arguments: arguments, instruction: 0x7e90_0000_0123))?.action
                    == Self.allow)
            #expect(
                evaluate(Call(number: number, arguments: arguments, instruction: 0x7e90_0000_4000))?.action
                    != Self.allow)
        }
    }
}
