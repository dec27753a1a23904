import ArgumentParser
import ConfigurationFiles
import Glibc
import Kernel
import Logging
import RackConfiguration
import Wire

/// A daemon that runs: what its frame needs of it at the end.
public protocol RunningDaemon: AnyObject, Sendable {
    /// Ends everything that the daemon started and gives its resources back. Called once, on the main thread; a daemon
    /// that is not through after `DaemonMain.stopLimit` is ended.
    func stop()
}

/// The executable of a component. Conform and mark it `@main`: arguments, configuration, logging, signals and readiness
/// are the frame's.
public protocol DaemonCommand: ParsableCommand {
    /// What its log entries are labelled while it has no name of its own.
    static var label: String { get }
    static var schema: ConfigurationSchema { get }
    static var listenKey: ConfigurationKey<NetworkAddress> { get }
    var frame: FrameOptions { get }
    /// The flags beside those of the frame, where given.
    var flags: [SettingFlag?] { get }
    /// Checks what the component needs of the host. Called while the process has one thread: the place for namespaces.
    func prepare(_ settings: Settings) throws
    /// Starts the component.
    func launch(_ context: DaemonContext) throws -> any RunningDaemon
}

extension DaemonCommand {
    /// The executable's name without `lego-`.
    public static var label: String { String(_commandName.trimmingPrefix("lego-")) }
    public static var listenKey: ConfigurationKey<NetworkAddress> { CommonKeys.listen }
    public func prepare(_ settings: Settings) throws {}
    public mutating func run() throws {}
    public static func main() { Glibc.exit(DaemonMain.run(Self.self)) }
}

/// From the command line to the exit status.
public enum DaemonMain {
    /// How long a clean stop may take.
    public static let stopLimit = Duration.seconds(4)

    /// Runs a daemon until a signal ends it; answers the exit status: 0 after a clean stop, 1 after a failure, 64 for a
    /// wrong command line.
    static func run<Command: DaemonCommand>(_ type: Command.Type, arguments: [String]? = nil) -> Int32 {
        // A peer that goes away is an error of the call, never the end of the daemon.
        signal(SIGPIPE, SIG_IGN)
        let executable = Command._commandName
        let command: Command
        do {
            command = try Command.parse(arguments)
        } catch {
            return report(error, of: type, executable)
        }
        var readiness: ReadinessReporter?
        do {
            let reporter = try ReadinessReporter(ready: command.frame.readyFd, keep: command.frame.keepFd)
            readiness = reporter
            try serve(command, reporter)
            return 0
        } catch {
            let reason = "\(error)"
            StandardErrorLog.write("\(executable): \(reason)\n")
            readiness?.report(.failed(reason: reason))
            return (error as? ConfigurationError)?.exitStatus ?? 1
        }
    }

    private static func report<Command: ParsableCommand>(
        _ error: any Error, of type: Command.Type, _ executable: String
    ) -> Int32 {
        let code = Command.exitCode(for: error)
        if code.isSuccess {
            print(Command.fullMessage(for: error))
        } else {
            let message = Command.message(for: error).split(separator: "\n").first ?? "wrong arguments"
            StandardErrorLog.write("\(executable): \(message) (see \(executable) --help)\n")
        }
        return code.rawValue
    }

    private static func serve<Command: DaemonCommand>(_ command: Command, _ readiness: ReadinessReporter) throws {
        let file = try command.frame.config.map { try ConfigurationFile(path: $0, schema: Command.schema).settings }
        let settings = try Settings(
            schema: Command.schema, file: file,
            flags: command.frame.flags(listen: Command.listenKey) + command.flags)
        // Before the first thread: threads inherit the mask, so the signals reach only the descriptor.
        let signals = try SignalDescriptor([SIGTERM, SIGINT, SIGHUP])
        let level = Logger.Level(setting: settings[CommonKeys.logLevel])
        let given = settings[CommonKeys.name]
        let logger = Logger(label: given.isEmpty ? Command.label : given) {
            StandardErrorLog(label: $0, level: level)
        }
        try command.prepare(settings)
        let context = try DaemonContext(settings: settings, logger: logger, readiness: readiness)
        let daemon = try command.launch(context)
        let end = waitForEnd(signals, context)
        let watchdog = try StopWatchdog(limit: stopLimit, logger: logger)
        daemon.stop()
        watchdog.disarm()
        if case .failure(let error) = end { throw error }
        logger.info("stopped")
    }

    private enum End {
        case asked
        case failure(DaemonError)
    }

    /// Waits for a signal, for a failure, or for the starter's end before it took the daemon over.
    private static func waitForEnd(_ signals: borrowing SignalDescriptor, _ context: DaemonContext) -> End {
        var starter = context.readiness.watched
        while true {
            var watched = [
                pollfd(fd: signals.raw, events: Int16(POLLIN), revents: 0),
                pollfd(fd: context.failureDescriptor, events: Int16(POLLIN), revents: 0),
                pollfd(fd: starter ?? -1, events: Int16(POLLIN), revents: 0),
            ]
            if poll(&watched, nfds_t(watched.count), -1) < 0 { continue }
            if let number = signals.next() {
                context.logger.info("stopping", metadata: ["signal": "\(number)"])
                return .asked
            }
            if let failure = context.failureReason { return .failure(failure) }
            if watched[2].revents != 0 {
                switch context.readiness.verdict() {
                case .goesOn: starter = nil
                case .waits: break
                case .ends: return .failure(DaemonError("the command that started this component ended half-way"))
                }
            }
        }
    }
}

/// Ends the process when a clean stop takes too long.
private final class StopWatchdog {
    private let done: EventDescriptorBox
    private let thread: KernelThread

    init(limit: Duration, logger: Logger) throws(KernelError) {
        let done = EventDescriptorBox(try EventDescriptor())
        self.done = done
        let deadline = Deadline.after(limit)
        thread = try KernelThread(name: "lego-watchdog") {
            while !deadline.hasPassed {
                var watched = pollfd(fd: done.event.raw, events: Int16(POLLIN), revents: 0)
                if poll(&watched, 1, deadline.pollMilliseconds) > 0 { return }
            }
            logger.error("the stop took too long; ending at once")
            _exit(1)
        }
    }

    func disarm() {
        done.event.signal()
        thread.join()
    }
}

/// An event descriptor that two threads hold.
final class EventDescriptorBox: Sendable {
    let event: EventDescriptor
    init(_ event: consuming EventDescriptor) { self.event = event }
}
