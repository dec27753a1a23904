import Glibc
import Kernel
import ManagementAPI
import Testing
import Wire

@testable import ManagerService

private func record(_ name: String) -> ProgramRecord {
    ProgramRecord(
        id: ProgramID(rawValue: 0), name: name, command: ["/bin/\(name)", "ä \"quoted\"\n"], user: "ada", userID: 1000,
        processor: "processor0", processorNode: NodeID(rawValue: .max), isDetached: true, token: Array(1...16))
}

/// A directory that goes with its test.
private func withDirectory(_ body: (String) throws -> Void) throws {
    var template = Array("/tmp/lego-store-test.XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw KernelError("mkdtemp") }
    let directory = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
    defer {
        for suffix in ["", "-wal", "-shm"] { unlink("\(directory)/db\(suffix)") }
        rmdir(directory)
    }
    try body(directory)
}

@Suite(.serialized) struct StoreTests {
    @Test func whatIsWrittenIsRead() throws {
        try withDirectory { directory in
            var statistics = ProgramStatistics()
            statistics.faults = 17
            statistics.perMemory = [MemoryShare(memory: "memory0", bytes: 5)]
            let component = Component(
                kind: .memory, name: "memory0", node: NodeID(rawValue: .max), liteAddress: "a:1", attachAddress: "",
                capacityBytes: 1 << 40, processID: 7, hostID: "h", health: .healthy, isConnected: true, leaseEnd: 9)
            var first = record("sort")
            do {
                let store = try ManagerStore(path: directory + "/db", results_max: 100)
                first = try store.add(first)
                let second = try store.add(record("cat"))
                #expect(first.id.rawValue == 1 && second.id.rawValue == 2)
                let end = ProgramEnd(state: .lost, exitStatus: nil, signal: 9, reason: "because")
                #expect(try store.end([(second.id, end, statistics)]) == [second.id])
                let again = try store.end([(second.id, .lost("later"), ProgramStatistics())])
                #expect(again == [], "the first word stands")
                #expect(try store.move(first) && !store.move(second))
                try store.keep([component], epoch: 12)
            }
            let store = try ManagerStore(path: directory + "/db", results_max: 100)
            #expect(try store.runningPrograms() == [first])
            let ended = try #require(try store.program(ProgramID(rawValue: 2)))
            #expect(ended.end == ProgramEnd(state: .lost, signal: 9, reason: "because"))
            #expect(ended.statistics == statistics && ended.command == record("cat").command)
            let (components, epoch) = try store.components()
            #expect(epoch == 12 && components.count == 1)
            #expect(components.first?.node == component.node && components.first?.health == .suspect)
        }
    }

    @Test func numbersAreNeverReusedAndResultsAreBounded() throws {
        try withDirectory { directory in
            for round in 0..<3 {
                let store = try ManagerStore(path: directory + "/db", results_max: 4)
                for index in 0..<5 {
                    let added = try store.add(record("p"))
                    #expect(added.id.rawValue == UInt64(round * 5 + index + 1))
                    // Every fifth runs on.
                    if index > 0 { _ = try store.end([(added.id, .lost("x"), ProgramStatistics())]) }
                }
            }
            let store = try ManagerStore(path: directory + "/db", results_max: 4)
            let left = try store.programs(limit: 100).map(\.id.rawValue)
            #expect(left == [1, 6, 11, 12, 13, 14, 15], "running programs and the latest results are kept")
        }
    }

    @Test func whatIsNoDatabaseIsRefused() throws {
        try withDirectory { directory in
            let file = try #require(fopen(directory + "/db", "w"))
            fputs(String(repeating: "this is not SQLite\n", count: 100), file)
            fclose(file)
            do throws(ManagerError) {
                _ = try ManagerStore(path: directory + "/db", results_max: 4)
                Issue.record("it was opened")
            } catch {
                #expect("\(error)".contains("file is not a database"))
            }
        }
    }

    /// A child writes until it is killed, again and again on one file. Whatever it was told to be done is there
    /// afterwards.
    @Test func survivesSIGKILLAtAnyInstruction() throws {
        try withDirectory { directory in
            var acknowledged: [UInt64: Bool] = [:]
            for round in 1...6 {
                let child = try StoreChild(database: directory + "/db")
                // Each round ends after another number of steps, wherever the child is then.
                for _ in 0..<(round * 23) {
                    guard let (id, isEnded) = child.next() else { break }
                    if !isEnded { #expect(acknowledged[id] == nil, "number \(id) was given out twice") }
                    acknowledged[id] = isEnded
                }
                child.kill()
                let store = try ManagerStore(path: directory + "/db", results_max: 1_000_000)
                for (id, isEnded) in acknowledged {
                    let found = try #require(try store.program(ProgramID(rawValue: id)), "program \(id) is gone")
                    if isEnded { #expect(found.end?.reason == "end of \(id)") }
                }
            }
            #expect(acknowledged.count > 100)
        }
    }

    /// Not a test but the child of the one above: it is this executable, told by a variable to run this function only.
    @Test(.enabled(if: getenv("LEGO_TEST_STORE") != nil, "runs as a child")) func child() throws {
        let path = try #require(getenv("LEGO_TEST_STORE"))
        let store = try ManagerStore(path: String(cString: path), results_max: 1_000_000)
        for _ in 0..<10_000 {
            let id = try store.add(record("p")).id
            var told: [UInt64] = [id.rawValue, 0]
            if write(StoreChild.descriptor, &told, 16) != 16 { return }
            _ = try store.end([(id, .lost("end of \(id)"), ProgramStatistics())])
            told[1] = 1
            if write(StoreChild.descriptor, &told, 16) != 16 { return }
        }
    }
}

/// A process that writes to a store, and tells over a pipe what has been written.
private final class StoreChild {
    /// The pipe's number in the child.
    static let descriptor: Int32 = 3
    private let pipe: Descriptor
    private let process: pid_t

    init(database: String) throws {
        var ends: [Int32] = [0, 0]
        guard Glibc.pipe(&ends) == 0 else { throw KernelError("pipe") }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        pipe = Descriptor(taking: ends[0])
        let writeEnd = Descriptor(taking: ends[1])
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0)
        posix_spawn_file_actions_adddup2(&actions, writeEnd.raw, Self.descriptor)
        let arguments = [
            CommandLine.arguments[0], "--testing-library", "swift-testing", "--filter", "StoreTests/child",
            "--no-parallel",
        ]
        let environment = ["LEGO_TEST_STORE=\(database)", "SWIFT_BACKTRACE=enable=no", "PATH=/usr/bin:/bin"]
        let (argv, envp) = (arguments.map { strdup($0) } + [nil], environment.map { strdup($0) } + [nil])
        defer { for text in argv + envp { free(text) } }
        var child: pid_t = 0
        let result = posix_spawn(&child, "/proc/self/exe", &actions, nil, argv, envp)
        if result != 0 { throw KernelError("posix_spawn", result) }
        process = child
    }

    /// The next thing that is on disk: a program's number, and whether its end is recorded. nil when the child ended or
    /// says nothing for 20 s.
    func next() -> (UInt64, Bool)? {
        var waited = pollfd(fd: pipe.raw, events: Int16(POLLIN), revents: 0)
        if poll(&waited, 1, 20_000) <= 0 { return nil }
        var told: [UInt64] = [0, 0]
        return read(pipe.raw, &told, 16) == 16 ? (told[0], told[1] == 1) : nil
    }

    func kill() {
        Glibc.kill(process, SIGKILL)
        var status: Int32 = 0
        waitpid(process, &status, 0)
    }
}
