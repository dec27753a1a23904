import CLinux
import Glibc
import Kernel

/// Stops the processes of a rack that earlier commands started.
struct RackStopper {
    /// How long daemons may take to stop cleanly.
    static let limit = Duration.seconds(5)

    /// Stops every daemon that still runs, and waits for the guardians of their programs. Answers how many daemons ran,
    /// and the names of those that had to be killed.
    static func stop(_ record: RackRecord, within limit: Duration = limit) -> (stopped: Int, killed: [String]) {
        let alive = record.bootID == Host.bootID ? record.components : []
        var targets = alive.compactMap { component in
            HeldProcess(component.identity).map { (name: component.name, kind: component.kind, process: $0) }
        }
        let count = targets.count
        let guardians = Guardians(of: targets.map(\.process.pid))
        var killed: [String] = []
        let deadline = Deadline.after(limit)
        // Processors first, so that the ends of their programs still reach the memory components and the manager.
        for kinds in [["processor"], ["memory", "storage"], ["manager"]] {
            let group = targets.filter { kinds.contains($0.kind) }
            for target in group { target.process.signal(SIGTERM) }
            for target in group where !target.process.waitForEnd(until: deadline) {
                target.process.signal(SIGKILL)
                killed.append(target.name)
            }
        }
        let hardDeadline = Deadline.after(.seconds(5))
        for target in targets { _ = target.process.waitForEnd(until: hardDeadline) }
        targets.removeAll()
        guardians.waitForEnd()
        return (count, killed)
    }
}

/// A process by descriptor: whatever becomes of its number, signals reach this process or nobody.
final class HeldProcess {
    let pid: Int32
    private let descriptor: Int32

    /// nil when the process has ended.
    init?(_ identity: ProcessIdentity) {
        let descriptor = lego_pidfd_open(identity.pid)
        if descriptor < 0 { return nil }
        // The number may have passed to another process before the descriptor was opened, but not afterwards.
        if !identity.isAlive {
            close(descriptor)
            return nil
        }
        pid = identity.pid
        self.descriptor = descriptor
    }

    deinit { close(descriptor) }

    func signal(_ number: Int32) { _ = lego_pidfd_send_signal(descriptor, number) }

    /// False when the process still runs at the deadline.
    func waitForEnd(until deadline: Deadline) -> Bool {
        while true {
            var watched = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            let ready = poll(&watched, 1, deadline.pollMilliseconds)
            if ready > 0 { return true }
            if ready == 0 { return false }
        }
    }
}

/// The `lego-sandbox` processes of a rack: those that guard its programs, and those that release its processors' mounts.
/// They end by themselves when their processor does.
struct Guardians {
    /// What they call themselves: until they say so, by their file.
    private static let names = ["lego-sandbox", "lego-prepared", "lego-guardian", "lego-release"]
    private let processes: [HeldProcess]

    /// Those whose parent is one of `daemons`, and those of this installation that have outlived theirs.
    init(of daemons: [Int32]) {
        let executable = RackPlan.executableDirectory + "/lego-sandbox"
        processes = ProcessTable.all().compactMap { pid in
            guard let status = ProcessStatus(of: pid), Self.names.contains(status.name) else { return nil }
            guard daemons.contains(status.parent) || Self.isOrphan(pid, status, executable) else { return nil }
            return HeldProcess(ProcessIdentity(pid: pid, startTime: status.startTime))
        }
    }

    /// Whether a guardian was left to whoever takes orphans in: no process of a rack.
    private static func isOrphan(_ pid: Int32, _ status: ProcessStatus, _ executable: String) -> Bool {
        let parent = ProcessStatus(of: status.parent)?.name ?? ""
        return !parent.hasPrefix("lego") && ProcessTable.executable(pid) == executable
    }

    func waitForEnd() {
        let deadline = Deadline.after(.seconds(5))
        for process in processes where !process.waitForEnd(until: deadline) {
            process.signal(SIGKILL)
            _ = process.waitForEnd(until: .after(.seconds(1)))
        }
    }
}

enum ProcessTable {
    /// The numbers of all processes that this one sees.
    static func all() -> [Int32] {
        guard let listing = opendir("/proc") else { return [] }
        defer { closedir(listing) }
        var pids: [Int32] = []
        while let item = readdir(listing) {
            let name = withUnsafeBytes(of: item.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            if let pid = Int32(name) { pids.append(pid) }
        }
        return pids
    }

    /// The file that the process executes; nil when it has ended.
    static func executable(_ pid: Int32) -> String? { Files.linkTarget("/proc/\(pid)/exe") }
}
