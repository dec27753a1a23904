import Foundation
import Testing

/// Unmodified programs of the machine, run in a rack and compared with the same program run natively.
@Suite(.serialized)
struct ProgramTests {
    private let mebibyte: UInt64 = 1 << 20

    @Test func pythonBuildsAndSumsObjectsThatLiveInRemoteMemory() throws {
        // Some 256 MiB: a list of five million references to as many integers, and strings.
        let script =
            "l=[i*7 for i in range(6_000_000)];s=sum(l);l.reverse();print(s,sum(l[::3]),len({str(x) for x in l[:200000]}))"
        let native = try Command("/usr/bin/python3", ["-c", script]).run()
        try Rack.with(["--memory-size", "1GiB"]) { rack in
            let result = try rack.run(
                ["--excache", "64MiB"], ["/usr/bin/python3", "-c", script], within: .seconds(240))
            #expect(result.status == 0, "\(result.errors)")
            #expect(result.text == native.text)
            let program = try #require(try rack.programs().max { $0.id < $1.id })
            let statistics = try rack.statistics(program.id)
            #expect(statistics.peakRemoteBytes >= 150 * mebibyte)
            #expect(statistics.peakResidentBytes <= 64 * mebibyte * 105 / 100)
            #expect(statistics.evictedPages > 0 && statistics.remoteReadPages > 0 && statistics.remoteWritePages > 0)
            #expect(statistics.zeroFills > 0)
        }
    }

    @Test func sortOfAFileInTheStorageComponentEqualsNativeSort() throws {
        try Rack.with(["--memory-size", "1GiB"]) { rack in
            let path = rack.directory + "/lines"
            try makeLines(at: path, megabytes: TestScale.isFull ? 200 : 60)
            let native = try Command("sh", ["-c", "LC_ALL=C sort --parallel=1 \(path) | sha256sum"]).run(
                within: .seconds(120))
            let options = ["--excache", TestScale.isFull ? "64MiB" : "24MiB", "--env", "LC_ALL=C"]
            let result = try rack.run(
                options, ["/bin/sh", "-c", "/usr/bin/sort -S 400M \(path) | sha256sum"], within: .seconds(300))
            #expect(result.status == 0, "\(result.errors)")
            #expect(result.text == native.text)
            let program = try #require(try rack.programs().max { $0.id < $1.id })
            #expect(try rack.statistics(program.id).peakRemoteBytes > 0)
        }
    }

    @Test func commandsOfEveryKindBehaveAsNatively() throws {
        try Rack.with { rack in
            let commands: [[String]] = [
                ["/bin/sh", "-c", "seq 1000000 | sort -n | tail -1"],
                ["/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8; do (echo $i; /bin/true); done | sort -r; exit 7"],
                [
                    "/usr/bin/perl", "-e",
                    "my %h; $h{$_ % 1000} += $_ for 1..300000; print join(',', map {$h{$_}} 1..9), qq(\\n)",
                ],
                ["/usr/bin/env", "-i", "A=1", "/usr/bin/env"],
                ["/bin/sh", "-c", "echo out; echo err >&2; exit 3"],
                ["/bin/sh", "-c", "kill -TERM $$"],
                ["/bin/sh", "-c", "dd if=/dev/zero bs=1M count=64 2>/dev/null | gzip -1 | gzip -d | wc -c"],
                ["/bin/cat", "/proc/self/comm"],
                ["/usr/bin/python3", "-c", "import multiprocessing as m;print(sum(m.Pool(3).map(abs,range(-50,50))))"],
            ]
            for command in commands {
                let native = try Command(command[0], Array(command.dropFirst())).run()
                // A user who is named is no news to anybody: nothing but the program's own output.
                let result = try rack.run(["--user", "nobody"], command)
                #expect(result.status == native.status, "\(command): \(result.errors)")
                #expect(result.output == native.output, "\(command)")
                #expect(result.errors == native.errors, "\(command)")
            }
        }
    }

    @Test func standardInputReachesTheProgram() throws {
        try Rack.with { rack in
            var input: [UInt8] = []
            for index in 0..<3_000_000 { input.append(UInt8(truncatingIfNeeded: index &* 31)) }
            let result = try rack.run([], ["/bin/cat"], input: input)
            #expect(result.status == 0, "\(result.errors)")
            #expect(result.output == input)
            let empty = try rack.run([], ["/usr/bin/wc", "-c"])
            #expect(empty.text == "0\n")
        }
    }

    @Test func theUsersInterruptReachesTheProgram() throws {
        try Rack.with { rack in
            let script = "trap 'echo interrupted; exit 42' INT; echo ready; while :; do sleep 0.05; done"
            let running = try rack.command(["run", "--", "/bin/sh", "-c", script]).start()
            #expect(running.pump(until: .after(.seconds(20))) { output, _ in output.starts(with: "ready\n".utf8) })
            running.signal(SIGINT)
            let result = running.finish(until: .after(.seconds(20)))
            #expect(result.status == 42, "\(result.errors)")
            #expect(result.text == "ready\ninterrupted\n")
        }
    }

    @Test func aReaderThatLeavesEndsTheProgramAsAPipeWould() throws {
        try Rack.with { rack in
            let result = try Command(
                "bash", ["-c", "set -o pipefail; \(Rack.legoctl) run -- /usr/bin/yes | head -1"],
                environment: ["LEGO_RACK": rack.address]
            ).run()
            #expect(result.text == "y\n")
            #expect(result.status == 128 + SIGPIPE)
        }
    }

    @Test func aCompilerAndWhatItCompiledRun() throws {
        try Rack.with { rack in
            let directory = try openDirectory(in: rack)
            let source = "#include <stdio.h>\nint main(void) { puts(\"compiled\"); return 5; }\n"
            try source.write(toFile: directory + "/hello.c", atomically: true, encoding: .utf8)
            let compiled = try rack.run(
                ["--cwd", directory], ["/usr/bin/gcc", "-O2", "-o", "hello", "hello.c"], within: .seconds(120))
            #expect(compiled.status == 0, "\(compiled.errors)")
            let result = try rack.run(["--cwd", directory], ["./hello"])
            #expect(result.status == 5)
            #expect(result.text == "compiled\n")
            #expect(!FileManager.default.fileExists(atPath: directory + "/hello"), "the host's own tree was written to")
        }
    }

    @Test func aMultiThreadedProgramKeepsItsMemoryAtASmallBudget() throws {
        try Rack.with { rack in
            let program = try compile("threads", into: rack.directory, ["-lpthread"])
            let native = try Command(program, []).run()
            let result = try rack.run(["--excache", "16MiB"], [program], within: .seconds(240))
            #expect(result.status == 0, "\(result.errors)")
            #expect(result.text == native.text)
        }
    }

    @Test func aStaticProgramRuns() throws {
        try Rack.with { rack in
            let program = try compile("threads", into: rack.directory, ["-static", "-lpthread"])
            let native = try Command(program, []).run()
            let result = try rack.run(["--excache", "32MiB"], [program], within: .seconds(240))
            #expect(result.status == 0, "\(result.errors)")
            #expect(result.text == native.text)
        }
    }

    @Test func twoProgramsShareTheCacheAndDoNotSeeEachOther() throws {
        try Rack.with(["--excache", "48MiB"]) { rack in
            let script =
                "import os,time;l=list(range(2_000_000));open('/tmp/mark','x').close();print(sum(l));"
                + "print(sorted(p for p in os.listdir('/proc') if p.isdigit() and 'lego' in open(f'/proc/{p}/comm').read()))"
            let first = try rack.command(["run", "--", "/usr/bin/python3", "-c", script]).start()
            let second = try rack.command(["run", "--", "/usr/bin/python3", "-c", script]).start()
            let results = [first.finish(until: .after(.seconds(120))), second.finish(until: .after(.seconds(120)))]
            for result in results {
                #expect(result.status == 0, "\(result.errors)")
                #expect(result.text.hasPrefix("1999999000000\n"))
            }
        }
    }

    /// A directory that any user of the rack may write to.
    private func openDirectory(in rack: Rack) throws -> String {
        let path = rack.directory + "/work"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        chmod(path, 0o777)
        return path
    }

    private func compile(_ name: String, into directory: String, _ options: [String]) throws -> String {
        let source = URL(fileURLWithPath: #filePath).deletingLastPathComponent().path + "/Programs/\(name).c"
        let result = try Command("gcc", ["-O2", "-o", "\(directory)/\(name)", source] + options).run()
        try #require(result.status == 0, "\(result.errors)")
        return "\(directory)/\(name)"
    }

    /// Lines of pseudo-random words, the same each time.
    private func makeLines(at path: String, megabytes: Int) throws {
        let script = """
            import random
            random.seed(7)
            line = lambda: ' '.join('%08x' % random.getrandbits(32) for _ in range(5))
            block = '\\n'.join(line() for _ in range(20000)) + '\\n'
            with open('\(path)', 'w') as f:
                while f.tell() < \(megabytes) * 1000000:
                    shift = random.randrange(len(block))
                    f.write(block[shift:] + block[:shift] + '\\n')
            """
        let result = try Command("/usr/bin/python3", ["-c", script]).run()
        try #require(result.status == 0, "\(result.errors)")
    }
}

/// How much the rack tests do: `Scripts/test.sh --all` runs them at full size.
enum TestScale {
    static let isFull = ProcessInfo.processInfo.environment["LEGO_TEST_ALL"] == "1"
}
