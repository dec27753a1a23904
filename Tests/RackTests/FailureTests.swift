import Foundation
import Glibc
import Kernel
import ManagementAPI
import Testing

/// Components are killed under running programs: exactly those that depended on them end, with the reason.
@Suite(.serialized)
struct FailureTests {
    /// A program whose pages spread to remote memory, which says so and then checks them all until its input ends.
    private let holder = """
        import sys
        l = [i * 7 for i in range(1_500_000)]
        print('ready', flush=True)
        sys.stdin.read()
        assert all(l[i] == i * 7 for i in range(len(l)))
        print(sum(l))
        """

    private func startHolder(_ rack: Rack) throws -> RunningCommand {
        let running = try rack.command(
            ["run", "--excache", "16MiB", "--", "/usr/bin/python3", "-c", holder],
            input: []
        ).start(keepingInputOpen: true)
        let isReady = running.pump(until: .after(.seconds(60))) { output, _ in output.starts(with: "ready\n".utf8) }
        try #require(isReady, "the program did not get ready")
        return running
    }

    @Test func aLostMemoryComponentEndsExactlyTheProgramsWithPagesThere() throws {
        try Rack.with(["--memories", "2", "--memory-size", "512MiB"]) { rack in
            let first = try startHolder(rack)
            let second = try startHolder(rack)
            let programs = try rack.programs().sorted { $0.id < $1.id }
            try #require(programs.count == 2)
            let statistics = try programs.map { try rack.statistics($0.id) }
            let homes = statistics.map { Set($0.perMemory.filter { $0.value > 0 }.keys) }
            try #require(homes[0].isDisjoint(with: homes[1]), "both programs use \(homes)")
            let victim = try #require(homes[0].first)

            #expect(try rack.control(["component", "kill", victim]).status == 0)
            let ended = first.finish(until: .after(.seconds(10)))
            #expect(!ended.timedOut)
            #expect(ended.status != 0)
            #expect(ended.errors.contains(victim), "\(ended.errors)")
            second.closeStandardInput()
            let survivor = second.finish(until: .after(.seconds(60)))
            #expect(survivor.status == 0, "\(survivor.errors)")
            #expect(survivor.text == "ready\n\((0..<1_500_000).reduce(0) { $0 + $1 * 7 })\n")

            let lost = try #require(try rack.programs().first { $0.id == programs[0].id })
            #expect(lost.state == .lost)
            #expect(lost.reason?.contains(victim) == true, "\(lost.reason ?? "no reason")")
            #expect(try rack.programs().first { $0.id == programs[1].id }?.state == .exited)

            #expect(try rack.control(["component", "start", victim]).status == 0)
            #expect(try rack.components().allSatisfy { $0.health == "healthy" })
            #expect(try rack.run([], ["/bin/echo", "again"]).text == "again\n")
        }
    }

    @Test(arguments: ["processor0", "storage0", "manager"])
    func aKilledComponentIsNoticedAndComesBack(_ name: String) throws {
        try Rack.with { rack in
            let running = try startHolder(rack)
            #expect(try rack.control(["component", "kill", name]).status == 0)
            if name == "manager" {
                let status = try rack.control(["status"])
                #expect(status.status != 0)
                #expect(status.errors.split(separator: "\n").count == 1, "\(status.errors)")
            } else {
                let isNoticed = try rack.eventually(within: .seconds(2)) {
                    try rack.components().first { $0.name == name }?.health == "lost"
                }
                #expect(isNoticed, "\(name) was not noticed to be lost within 2 s")
            }
            if name == "processor0" {
                let ended = running.finish(until: .after(.seconds(10)))
                #expect(!ended.timedOut && ended.status != 0)
                #expect(ended.errors.contains(name), "\(ended.errors)")
            }
            #expect(try rack.control(["component", "start", name]).status == 0)
            let isHealthy = try rack.eventually {
                try rack.components().allSatisfy { $0.health == "healthy" }
            }
            #expect(isHealthy, "\(name) did not become healthy again")
            if name == "manager" {
                // The program ran on without a manager, and the new one knows it.
                running.closeStandardInput()
                let result = running.finish(until: .after(.seconds(60)))
                #expect(result.status == 0, "\(result.errors)")
                let isRecorded = try rack.eventually { try rack.programs().max { $0.id < $1.id }?.state == .exited }
                #expect(isRecorded, "the restarted manager does not record the end")
            }
            #expect(try rack.run([], ["/bin/echo", "again"]).text == "again\n")
        }
    }

    /// What docs/FAILURES.md promises a program with an open file: calls wait, then fail with EIO; the file goes on with
    /// the next life of the component, and what fsync acknowledged is there.
    @Test func aProgramWithAnOpenFileOutlivesItsStorageComponent() throws {
        try Rack.with { rack in
            let source = URL(fileURLWithPath: #filePath).deletingLastPathComponent().path + "/Programs/fsyncloop.py"
            let program = rack.directory + "/fsyncloop.py"
            try FileManager.default.copyItem(atPath: source, toPath: program)
            let running = try rack.command(["run", "--", "/usr/bin/python3", program, "/var/tmp/lego-records"]).start()
            var lines: [Substring] = []
            /// Reads on until a line that begins so has come after those that are there.
            func waitForLine(_ start: String) throws {
                let known = lines.count
                let isThere = running.pump(until: .after(.seconds(40))) { output, _ in
                    lines = String(decoding: output, as: UTF8.self).split(separator: "\n")
                    return lines.dropFirst(known).contains { $0.hasPrefix(start) }
                }
                try #require(isThere, "no line '\(start)'; the last ones: \(lines.suffix(5))")
            }
            try waitForLine("ok ")
            // Back before the program's patience ends, then only after it.
            for waitsForError in [false, true] {
                #expect(try rack.control(["component", "kill", "storage0"]).status == 0)
                if waitsForError { try waitForLine("EIO ") }
                #expect(try rack.control(["component", "start", "storage0"]).status == 0)
                try waitForLine("ok ")
            }
            #expect(lines.allSatisfy { $0.hasPrefix("ok ") || $0.hasPrefix("EIO ") }, "\(lines)")
            #expect(try rack.control(["component", "kill", "storage0"]).status == 0)
            running.signal(SIGTERM)
            let ended = running.finish(until: .after(.seconds(30)))
            #expect(ended.status == 128 + SIGTERM, "\(ended.errors)")
            let numbers = ended.text.split(separator: "\n").filter { $0.hasPrefix("ok ") }.compactMap {
                Int($0.dropFirst(3))
            }
            let last = try #require(numbers.last)
            #expect(numbers == Array(0...last))

            #expect(try rack.control(["component", "start", "storage0"]).status == 0)
            let records = try rack.run([], ["/bin/cat", "/var/tmp/lego-records"]).text.split(separator: "\n")
            #expect(records.prefix(last + 1).map { Int($0) } == (0...last).map { $0 })
            #expect(!FileManager.default.fileExists(atPath: "/var/tmp/lego-records"))
        }
    }

    @Test func nothingIsLeftAfterEveryDaemonWasKilled() throws {
        try Rack.with { rack in
            _ = try startHolder(rack)
            let record = try JSONSerialization.jsonObject(
                with: Data(contentsOf: URL(fileURLWithPath: rack.directory + "/state/rack.json")))
            var pids: [Int] = []
            collectPids(record, into: &pids)
            try #require(pids.count >= 4, "rack.json names \(pids)")
            for pid in pids { kill(pid_t(pid), SIGKILL) }
            let isGone = try rack.eventually { rack.leftovers().filter { !$0.contains("legoctl") }.isEmpty }
            #expect(isGone, "\(rack.leftovers())")
        }
    }

    /// The monitor of a program waits for a file of the tree, which the processor itself serves, and the storage
    /// component says nothing: a wait that the kernel lets no signal end.
    @Test func aProcessorThatWaitsForItsOwnTreeCanBeKilled() throws {
        try Rack.with { rack in
            // What is to be executable the monitor asks the file system for, each time; pages it would wait for as a signal ends.
            let script = """
                import ctypes, sys
                library = ctypes.CDLL(None)
                file = open(sys.argv[1], 'rb')
                print('ready', flush=True)
                sys.stdin.readline()
                library.mmap(None, 4096, 5, 2, file.fileno(), 0)
                print('mapped', flush=True)
                """
            let file = rack.directory + "/file"
            try #require(FileManager.default.createFile(atPath: file, contents: Data(count: 8 << 20)))
            let running = try rack.command(["run", "--", "/usr/bin/python3", "-c", script, file]).start(
                keepingInputOpen: true)
            let isReady = running.pump(until: .after(.seconds(60))) { output, _ in output.starts(with: "ready\n".utf8) }
            try #require(isReady, "the program did not get ready")
            let processor = try pid(rack, of: "processor0")
            let storage = try pid(rack, of: "storage0")
            kill(storage, SIGSTOP)
            defer { kill(storage, SIGCONT) }
            running.write("go\n")
            let isWaiting = try rack.eventually { Self.waitsForFile(processor) }
            try #require(isWaiting, "no monitor waits for the file")
            kill(processor, SIGKILL)
            let isGone = try rack.eventually(within: .seconds(5)) {
                kill(processor, 0) != 0 || Self.hasEnded(processor)
            }
            #expect(isGone, "the processor is still there")
            let ended = running.finish(until: .after(.seconds(10)))
            #expect(!ended.timedOut && ended.status != 0)
            kill(storage, SIGCONT)
            #expect(try rack.control(["component", "start", "processor0"]).status == 0)
            #expect(try rack.run([], ["/bin/echo", "again"]).text == "again\n")
        }
    }

    /// Whether a monitor's thread is in the kernel, waiting for an answer of a FUSE server.
    private static func waitsForFile(_ processor: pid_t) -> Bool {
        let tasks = "/proc/\(processor)/task"
        return ((try? FileManager.default.contentsOfDirectory(atPath: tasks)) ?? []).contains { thread in
            let stack = FileManager.default.contents(atPath: "\(tasks)/\(thread)/stack") ?? Data()
            return String(decoding: stack, as: UTF8.self).contains("request_wait_answer")
        }
    }

    private static func hasEnded(_ process: pid_t) -> Bool {
        let stat = FileManager.default.contents(atPath: "/proc/\(process)/stat") ?? Data()
        return String(decoding: stat, as: UTF8.self).contains(") Z ")
    }

    private func pid(_ rack: Rack, of name: String) throws -> pid_t {
        let record = try JSONSerialization.jsonObject(
            with: Data(contentsOf: URL(fileURLWithPath: rack.directory + "/state/rack.json")))
        let components = try #require((record as? [String: Any])?["components"] as? [[String: Any]])
        var pids: [Int] = []
        collectPids(components.filter { $0["name"] as? String == name }, into: &pids)
        return pid_t(try #require(pids.first, "rack.json has no \(name)"))
    }

    private func collectPids(_ value: Any, into pids: inout [Int]) {
        if let object = value as? [String: Any] {
            if let pid = object["pid"] as? Int { pids.append(pid) }
            for child in object.values { collectPids(child, into: &pids) }
        } else if let list = value as? [Any] {
            for child in list { collectPids(child, into: &pids) }
        }
    }

    @Test func memoryThatIsFullEndsTheProgramWithOneLine() throws {
        try Rack.with(["--memories", "1", "--memory-size", "32MiB"]) { rack in
            let script = "l=[bytes(4096)+i.to_bytes(4,'big') for i in range(40000)];print(len(l))"
            let result = try rack.run(["--excache", "16MiB"], ["/usr/bin/python3", "-c", script])
            #expect(result.status != 0)
            #expect(!result.timedOut)
            #expect(result.errors.contains("memory"), "\(result.errors)")
            let program = try #require(try rack.programs().max { $0.id < $1.id })
            #expect(program.state != .running)
            #expect(program.reason?.isEmpty == false)
            #expect(try rack.run([], ["/bin/echo", "room again"]).text == "room again\n")
        }
    }
}
