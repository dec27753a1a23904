import CLinux
import FoundationEssentials
import Glibc
import Kernel
import RackConfiguration

/// Reads configuration files through `lego-config`, which has the TOML library.
enum ConfigurationReader {
    private static let limit: Duration = .seconds(Int64(ConfigurationReport.seconds_max))
    private static let bytes_max = 16 << 20

    /// The settings of a rack's file; the path is relative to the current directory, and named so in errors.
    static func read(_ path: String) throws -> FileSettings {
        let output = try run([RackPlan.executableDirectory + "/lego-config", path])
        switch try? JSONDecoder().decode(ConfigurationReport.self, from: Data(output)) {
        case .settings(let settings): return settings
        case .refused(let error): throw error
        case nil: throw CommandFailure("\(path): lego-config ended without an answer; its message is above")
        }
    }

    /// Runs a command to its end; answers what it wrote to its standard output.
    private static func run(_ words: [String]) throws(CommandFailure) -> [UInt8] {
        var ends: [Int32] = [-1, -1]
        let made = lego_pipe(&ends)
        if made < 0 { throw CommandFailure("cannot start \(words[0]): \(KernelError.text(-made))") }
        let output = Descriptor(taking: ends[0])
        let input = Descriptor(taking: ends[1])
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, input.raw, 1)
        var arguments = words.map(Variables.cString) + [nil]
        defer { for text in arguments { free(text) } }
        var pid = pid_t()
        let result = posix_spawn(&pid, words[0], &actions, nil, &arguments, environ)
        if result != 0 { throw CommandFailure("cannot start \(words[0]): \(KernelError.text(result))") }
        _ = consume input
        let bytes = collect(from: output.raw)
        if bytes == nil { kill(pid, SIGKILL) }
        while waitpid(pid, nil, 0) < 0 && errno == EINTR {}
        guard let bytes else {
            throw CommandFailure("\(words[1]): not read within \(TimeSpan.exact(limit)); name a file that ends")
        }
        return bytes
    }

    /// All that comes until the end of the stream; nil when that does not come in time, or far too much.
    private static func collect(from descriptor: Int32) -> [UInt8]? {
        let deadline = Deadline.after(limit)
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        while !deadline.hasPassed && bytes.count < bytes_max {
            var watched = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            if poll(&watched, 1, deadline.pollMilliseconds) <= 0 { continue }
            let count = Glibc.read(descriptor, &buffer, buffer.count)
            if count > 0 { bytes += buffer[..<count] }
            if count == 0 { return bytes }
        }
        return nil
    }
}
