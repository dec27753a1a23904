import FoundationEssentials
import Glibc
import Kernel

/// `<state>/rack.json`: the components of a rack that `rack up` started on this machine.
struct RackRecord: Codable, Equatable {
    struct Component: Codable, Equatable {
        var name: String
        var kind: String
        var pid: Int32
        /// Clock ticks since boot (proc_pid_stat(5), field 22): tells the process from a later one with its number.
        var startTime: UInt64
        var liteAddress: String
        /// The daemon and the arguments that start it again.
        var executable: String
        var arguments: [String]

        var identity: ProcessIdentity { ProcessIdentity(pid: pid, startTime: startTime) }
    }

    static let currentVersion = 1
    var version = RackRecord.currentVersion
    /// The manager's HTTP address, `HOST:PORT`.
    var address: String
    var stateDirectory: String
    /// The boot that the processes belong to: /proc/sys/kernel/random/boot_id.
    var bootID: String
    var components: [Component]

    /// Whether any process of the rack still runs.
    var isAlive: Bool { components.contains { isAlive($0) } }

    func isAlive(_ component: Component) -> Bool { bootID == Host.bootID && component.identity.isAlive }

    static func path(in stateDirectory: String) -> String { stateDirectory + "/rack.json" }

    /// nil when there is none in that directory.
    static func load(from stateDirectory: String) throws(CommandFailure) -> RackRecord? {
        let path = path(in: stateDirectory)
        guard let bytes = try Files.read(path) else { return nil }
        guard let record = try? JSONDecoder().decode(RackRecord.self, from: Data(bytes)),
            record.version == currentVersion
        else { throw CommandFailure("\(path) is damaged; remove it when no daemon of that rack runs any more") }
        return record
    }

    func save() throws(CommandFailure) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        guard let data = try? encoder.encode(self) else { throw CommandFailure("the rack cannot be written as JSON") }
        try Files.replace(Self.path(in: stateDirectory), with: Array(data) + [10], mode: 0o644)
    }

    func delete() { unlink(Self.path(in: stateDirectory)) }
}

/// A process that is told from a later one with the same number.
struct ProcessIdentity: Equatable {
    var pid: Int32
    var startTime: UInt64

    /// nil when there is no such process, or it has ended and waits for its parent.
    init?(of pid: Int32) {
        guard let status = ProcessStatus(of: pid), !status.hasEnded else { return nil }
        self.pid = pid
        startTime = status.startTime
    }

    init(pid: Int32, startTime: UInt64) {
        self.pid = pid
        self.startTime = startTime
    }

    var isAlive: Bool { ProcessIdentity(of: pid) == self }
}

/// What /proc/PID/stat tells.
struct ProcessStatus {
    var name: String
    var state: Character
    var parent: Int32
    var startTime: UInt64

    var hasEnded: Bool { state == "Z" || state == "X" }

    init?(of pid: Int32) {
        guard pid > 0, let bytes = (try? Files.read("/proc/\(pid)/stat")) ?? nil else { return nil }
        self.init(stat: String(decoding: bytes, as: UTF8.self))
    }

    /// The name stands in parentheses and may contain some itself, so the fields are counted from the last one.
    init?(stat: String) {
        guard let open = stat.firstIndex(of: "("), let close = stat.lastIndex(of: ")"), open < close else { return nil }
        let fields = stat[stat.index(after: close)...].split(separator: " ")
        guard fields.count > 19, let state = fields[0].first, let parent = Int32(fields[1]),
            let startTime = UInt64(fields[19])
        else { return nil }
        name = String(stat[stat.index(after: open)..<close])
        self.state = state
        self.parent = parent
        self.startTime = startTime
    }
}

/// This machine.
enum Host {
    /// /proc/sys/kernel/random/boot_id; empty where it cannot be read.
    static var bootID: String {
        guard let bytes = (try? Files.read("/proc/sys/kernel/random/boot_id")) ?? nil else { return "" }
        return String(decoding: bytes.filter { $0 > 32 }, as: UTF8.self)
    }
}
