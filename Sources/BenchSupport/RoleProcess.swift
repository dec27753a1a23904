import Glibc
import Kernel

/// This program once more, in another role, which its first argument names. It ends when its standard input closes, so
/// also when this process dies.
public final class RoleProcess {
    private var process: pid_t = 0
    private let input: Int32
    private let output: Int32

    public init(_ role: [String]) throws {
        var toChild: [Int32] = [0, 0]
        var fromChild: [Int32] = [0, 0]
        if pipe(&toChild) < 0 || pipe(&fromChild) < 0 { throw KernelError("pipe") }
        for own in [toChild[1], fromChild[0]] { _ = fcntl(own, F_SETFD, FD_CLOEXEC) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, toChild[0], 0)
        posix_spawn_file_actions_adddup2(&actions, fromChild[1], 1)
        let arguments = ([CommandLine.arguments[0]] + role).map { strdup($0) } + [nil]
        defer { for argument in arguments { free(argument) } }
        let result = posix_spawn(&process, "/proc/self/exe", &actions, nil, arguments, environ)
        if result != 0 { throw KernelError("posix_spawn", result) }
        close(toChild[0])
        close(fromChild[1])
        input = toChild[1]
        output = fromChild[0]
    }

    /// The next line of its output, without the end of line; empty when it has ended.
    public func readLine() -> String {
        var bytes: [UInt8] = []
        var byte: UInt8 = 0
        while read(output, &byte, 1) == 1, byte != 10 { bytes.append(byte) }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// The processor time that it has taken so far, in seconds.
    public var processorSeconds: Double {
        var clock = clockid_t()
        var time = timespec()
        if clock_getcpuclockid(process, &clock) != 0 || clock_gettime(clock, &time) != 0 { return 0 }
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }

    /// What of its memory is mapped in huge pages, in bytes, as smaps(5) tells.
    public var hugeBytes: Int {
        guard let file = fopen("/proc/\(process)/smaps_rollup", "r") else { return 0 }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 256)
        var sum = 0
        while fgets(&line, Int32(line.count), file) != nil {
            let text = line.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
            guard ["ShmemPmdMapped:", "Shared_Hugetlb:", "Private_Hugetlb:"].contains(where: text.hasPrefix) else {
                continue
            }
            sum += (Int(text.filter(\.isNumber)) ?? 0) << 10
        }
        return sum
    }

    /// Stops it where it is, and lets it go on.
    public func stop() { kill(process, SIGSTOP) }
    public func goOn() { kill(process, SIGCONT) }

    /// Tells it to end, and waits for that. Answers what it says last, if it says something.
    @discardableResult
    public func end() -> String {
        close(input)
        let last = readLine()
        close(output)
        waitpid(process, nil, 0)
        return last
    }
}

/// What a process in a role does to be heard of and to be ended.
public enum Role {
    /// Says a line to the process that started this one.
    public static func say(_ text: String) {
        print(text)
        fflush(nil)
    }

    /// Returns when the process that started this one wants its end, or has ended itself.
    public static func awaitEnd() { while getchar() != EOF {} }
}
