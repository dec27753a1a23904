import Foundation
import Glibc
import Kernel
import Testing

/// legoctl where it is used wrongly, where the rack is not as expected, and at the edges of what a command line holds.
@Suite(.serialized)
struct CommandLineTests {
    private func expectOneLine(
        _ result: Command.Result, status: Int32? = nil, _ words: [String] = [],
        location: SourceLocation = #_sourceLocation
    ) {
        let isStatus = status.map { result.status == $0 } ?? (result.status != 0)
        #expect(isStatus && !result.timedOut, "\(result.status): \(result.errors)", sourceLocation: location)
        #expect(result.text.isEmpty, sourceLocation: location)
        let lines = result.errors.split(separator: "\n")
        #expect(lines.count == 1, "\(result.errors)", sourceLocation: location)
        for word in words {
            #expect(result.errors.contains(word), "\(word) is not in: \(result.errors)", sourceLocation: location)
        }
    }

    @Test(arguments: [
        ["nonsense"], ["--nope"], ["rack", "up", "--bogus"], ["rack", "up", "extra"],
        ["rack", "up", "--memories", "0"],
        ["rack", "up", "--memories", "x"], ["rack", "up", "--processors", "17"], ["rack", "up", "--memory-size", "1"],
        ["rack", "up", "--excache", "-1"], ["rack", "down", "extra"], ["rack", "sideways"], ["run"], ["run", "--"],
        ["run", "--nope", "--", "true"], ["run", "--env", "X", "--", "true"], ["run", "--env", "=x", "--", "true"],
        ["run", "--cwd", "relative", "--", "true"], ["run", "--name", "a/b", "--", "true"],
        ["run", "--excache", "0", "--", "true"], ["ps", "x"], ["ps", "--nope"], ["logs"], ["logs", "x"], ["logs", "0"],
        ["logs", "1", "2"], ["kill"], ["kill", "-s", "NOPE", "1"], ["kill", "-s", "99", "1"], ["kill", "-s", "TERM"],
        ["wait"], ["wait", "-1"], ["stats", "99999999999999999999"], ["status", "x"], ["component", "kill"],
        ["component", "start"], ["component", "explode", "memory0"], ["component", "kill", "../memory0"],
    ])
    func aWrongCommandLine(_ words: [String]) throws {
        // A rack that does not exist: nothing may get as far as asking it.
        expectOneLine(try Command(Rack.legoctl, words, environment: ["LEGO_RACK": "127.0.0.1:1"]).run(), status: 64)
    }

    @Test func addressesThatLeadNowhere() throws {
        for address in ["127.0.0.1:1", "nonsense", "127.0.0.1:99999", ":", "[::1", "host.invalid:80"] {
            let commands = [
                ["ps"], ["status"], ["run", "--", "/bin/true"], ["logs", "1"], ["kill", "1"], ["wait", "1"],
                ["stats", "1"],
            ]
            for words in commands {
                expectOneLine(try Command(Rack.legoctl, ["--rack", address] + words).run(), status: 1, [address])
                expectOneLine(
                    try Command(Rack.legoctl, words, environment: ["LEGO_RACK": address]).run(), status: 1, [address])
            }
        }
    }

    @Test func aDeadManager() throws {
        try Rack.with { rack in
            #expect(try rack.control(["component", "kill", "manager"]).status == 0)
            for words in [
                ["ps"], ["status"], ["run", "--", "/bin/true"], ["logs", "1"], ["kill", "1"], ["wait", "1"],
                ["stats", "1"],
            ] { expectOneLine(try rack.control(words), status: 1, [rack.address, "component start manager"]) }
            expectOneLine(try rack.control(["component", "kill", "manager"]), ["manager"])
        }
    }

    @Test func upTwiceAndDownTwice() throws {
        let directory = try Rack.makeDirectory()
        defer { _ = try? Command("rm", ["-rf", directory]).run() }
        let state = ["--state", directory + "/state"]
        #expect(try Command(Rack.legoctl, ["rack", "up"] + state).run().status == 0)
        expectOneLine(try Command(Rack.legoctl, ["rack", "up"] + state).run(), status: 1, [directory])
        #expect(try Command(Rack.legoctl, ["rack", "down"] + state).run().status == 0)
        expectOneLine(try Command(Rack.legoctl, ["rack", "down"] + state).run(), status: 1, [directory])
        #expect(Rack.leftovers(of: directory) == [])
    }

    /// Whatever the file says wrong: its name, the line, the key, and what is allowed.
    @Test(arguments: [
        ("[rack]\nmemories = \"two\"\n", ["rack.toml:2", "rack.memories", "a number from 1 to 16"]),
        ("[rack]\nmemory = 2\n", ["rack.toml:2", "rack.memory", "rack.memories"]),
        ("[memory]\nsize = \"1 parsec\"\n", ["rack.toml:2", "memory.size", "512MiB"]),
        ("[rack]\nmemories = 2\nmemories = 3\n", ["rack.toml:3", "memories"]),
        ("[rack\n", ["rack.toml:1"]),
        ("[override.memory9]\nsize = \"1GiB\"\n", ["rack.toml:2", "memory9", "memory0"]),
        ("[override.memory0]\n\nexcache = \"1GiB\"\n", ["rack.toml:3", "excache", "memory0", "size"]),
        ("[override.manager]\nsize = \"1GiB\"\n", ["rack.toml:2", "size", "manager", "log-level"]),
    ])
    func aWrongConfiguration(_ text: String, _ words: [String]) throws {
        let directory = try Rack.makeDirectory()
        defer { _ = try? Command("rm", ["-rf", directory]).run() }
        try text.write(toFile: directory + "/rack.toml", atomically: false, encoding: .utf8)
        let arguments = ["rack", "up", "--state", directory + "/state", "--config", directory + "/rack.toml"]
        expectOneLine(try Command(Rack.legoctl, arguments).run(), status: 1, words)
        #expect(Rack.leftovers(of: directory) == [])
    }

    @Test func aPortInUse() throws {
        try Rack.with { rack in
            let directory = try Rack.makeDirectory()
            defer { _ = try? Command("rm", ["-rf", directory]).run() }
            let text = "[rack]\napi = \"\(rack.address)\"\n"
            try text.write(toFile: directory + "/rack.toml", atomically: false, encoding: .utf8)
            let arguments = ["rack", "up", "--state", directory + "/state", "--config", directory + "/rack.toml"]
            expectOneLine(try Command(Rack.legoctl, arguments).run(), status: 1, [rack.address])
            #expect(Rack.leftovers(of: directory) == [])
            #expect(try rack.run([], ["/bin/echo", "still here"]).text == "still here\n")
        }
    }

    @Test(arguments: ["ro,size=1m", "size=64k"])
    func aStateDirectoryThatTakesNothing(_ options: String) throws {
        let directory = try Rack.makeDirectory()
        defer { _ = try? Command("rm", ["-rf", directory]).run() }
        let state = directory + "/state"
        mkdir(state, 0o755)
        let mounted = try Command("mount", ["-t", "tmpfs", "-o", options, "lego-test", state]).run()
        try #require(mounted.status == 0, "\(mounted.errors)")
        let result = try Command(Rack.legoctl, ["rack", "up", "--state", state]).run()
        _ = try Command("umount", [state]).run()
        expectOneLine(result, status: 1)
        #expect(
            result.errors.contains("Read-only") || result.errors.contains("No space") || result.errors.contains("full"),
            "\(result.errors)")
        #expect(Rack.leftovers(of: directory) == [])
    }

    /// The signal comes at any moment of the start; either there is a rack, or nothing.
    @Test(arguments: [SIGINT, SIGTERM, SIGKILL])
    func anInterruptedStart(_ signal: Int32) throws {
        for delay_us in stride(from: UInt32(0), through: 120_000, by: 15_000) {
            let directory = try Rack.makeDirectory()
            defer { _ = try? Command("rm", ["-rf", directory]).run() }
            let running = try Command(Rack.legoctl, ["rack", "up", "--state", directory + "/state"]).start()
            usleep(delay_us)
            running.signal(signal)
            let result = running.finish(until: .after(.seconds(20)))
            let isWhole = result.status == 0 || (signal == SIGKILL && Self.isWhole(directory + "/state"))
            if isWhole {
                #expect(try Command(Rack.legoctl, ["rack", "down", "--state", directory + "/state"]).run().status == 0)
            }
            let deadline = Deadline.after(.seconds(10))
            while !Rack.leftovers(of: directory).isEmpty, !deadline.hasPassed { usleep(20_000) }
            #expect(Rack.leftovers(of: directory) == [], "after \(delay_us) µs")
        }
    }

    /// Whether the command was killed between the last step of the start and its own end: every component is there.
    private static func isWhole(_ state: String) -> Bool {
        guard let text = FileManager.default.contents(atPath: state + "/rack.json"),
            let record = try? JSONSerialization.jsonObject(with: text) as? [String: Any],
            let address = record["address"] as? String,
            let status = try? Command(Rack.legoctl, ["status", "--json"], environment: ["LEGO_RACK": address]).run()
        else { return false }
        return status.status == 0 && status.text.components(separatedBy: "\"healthy\"").count - 1 == 5
    }

    @Test func signalsReachTheProgram() throws {
        try Rack.with { rack in
            for (trap, status) in [("trap 'exit 7' TERM", Int32(7)), (":", 128 + SIGTERM)] {
                let script = "\(trap); echo ready; while :; do sleep 0.05; done"
                let running = try rack.command(["run", "--", "/bin/sh", "-c", script]).start()
                #expect(running.pump(until: .after(.seconds(20))) { output, _ in output.starts(with: "ready\n".utf8) })
                running.signal(SIGTERM)
                let result = running.finish(until: .after(.seconds(20)))
                #expect(result.status == status, "\(result.errors)")
            }
        }
    }

    private func shell(_ rack: Rack, _ script: String, _ environment: [String: String] = [:]) throws -> Command.Result {
        var environment = environment
        environment["LEGO_RACK"] = rack.address
        environment["legoctl"] = Rack.legoctl
        return try Command("bash", ["-c", "set -o pipefail; " + script], environment: environment).run()
    }

    @Test func closedStreams() throws {
        try Rack.with { rack in
            let user = "$legoctl run --user nobody --"
            #expect(try shell(rack, "\(user) /bin/cat <&-").status == 0)
            #expect(try shell(rack, "true | \(user) /usr/bin/wc -c").text == "0\n")
            #expect(try shell(rack, "\(user) /bin/echo x >&-").timedOut == false)
            #expect(try shell(rack, "\(user) /bin/sh -c 'echo out; echo error >&2' 2>&-").text == "out\n")
            let help = try shell(rack, "$legoctl run --help | head -1")
            #expect(help.errors.isEmpty && help.text.hasPrefix("OVERVIEW"))
        }
    }

    @Test func aWorkingDirectoryThatIsNotThereCostsOneAttempt() throws {
        try Rack.with { rack in
            // /tmp is private to programs.
            let directory = "/tmp/lego-test-\(getpid())"
            mkdir(directory, 0o755)
            defer { rmdir(directory) }
            let result = try shell(rack, "cd \(directory) && $legoctl run --user nobody -- /bin/pwd")
            #expect(result.text == "/\n")
            #expect(result.status == 0)
            #expect(result.errors == "legoctl: the program cannot enter \(directory); it runs in /\n")
            #expect(try rack.programs().count == 1)
            expectOneLine(try rack.run(["--cwd", directory], ["/bin/pwd"]), [directory])
        }
    }

    /// The output of a script, byte by byte.
    private func hexadecimal(_ rack: Rack, _ script: String) throws -> String {
        let result = try shell(rack, "\(script) | od -An -v -tx1 | tr -d ' \\n'")
        #expect(result.errors.isEmpty)
        return result.text
    }

    @Test func bytesThatAreNoText() throws {
        try Rack.with { (rack: Rack) throws in
            // Lone, overlong, truncated and private characters, and good ones between them.
            let odd = "a\\xff\\xfe\\xc0\\xafb\\xe2\\x82\\xf4\\x8f\\xbe\\x80\\xc3\\xa9"
            let run = "$legoctl run --user nobody"
            let expected = "61fffec0af62e282f48fbe80c3a9"
            #expect(try hexadecimal(rack, "\(run) -- /usr/bin/printf %s $'\(odd)'") == expected)
            #expect(try hexadecimal(rack, "V=$'\(odd)' \(run) -- /bin/sh -c 'printf %s \"$V\"'") == expected)
            #expect(try hexadecimal(rack, "\(run) --env V=$'\(odd)' -- /bin/sh -c 'printf %s \"$V\"'") == expected)
            let directory = "\(rack.directory)/$'\(odd)'"
            #expect(try shell(rack, "mkdir -m 755 \(directory)").status == 0)
            let prefix = rack.directory.utf8.map { String($0, radix: 16) }.joined() + "2f"
            #expect(
                try hexadecimal(rack, "cd \(directory) && \(run) -- /bin/sh -c 'printf %s \"$(pwd)\"'") == prefix
                    + expected)
            #expect(try rack.control(["ps", "-a"]).text.contains("a\\xff\\xfe\\xc0\\xafb"))
        }
    }

    @Test func longCommandLines() throws {
        try Rack.with { rack in
            let count = "import sys, os; print(len(sys.argv) - 1, len(sys.argv[-1]), len(os.environ.get('BIG7', '')))"
            let thousand = (0..<1000).map { "argument \($0)" }
            #expect(
                try rack.run([], ["/usr/bin/python3", "-c", count] + thousand).text == "1000 12 0\n")
            // 800 KiB of variables, and one argument of the most that Linux takes.
            let big = String(repeating: "x", count: 100 << 10)
            let variables = Dictionary(uniqueKeysWithValues: (0..<8).map { ("BIG\($0)", big) })
            let long = String(repeating: "y", count: (128 << 10) - 1)
            let result = try rack.control(
                ["run", "--", "/usr/bin/python3", "-c", count, long], environment: variables)
            #expect(result.text == "1 \(long.utf8.count) \(big.utf8.count)\n", "\(result.errors.prefix(300))")
            // What the rack does not carry is refused as a shell refuses what the kernel does not.
            let more = Dictionary(uniqueKeysWithValues: (0..<14).map { ("BIG\($0)", big) })
            expectOneLine(
                try rack.control(["run", "--", "/bin/true"], environment: more), status: 126, ["\(1 << 20)"])
            #expect(try rack.programs().count == 2)
        }
    }

    @Test func withoutMemoryComponents() throws {
        try Rack.with(["--memories", "1"]) { rack in
            #expect(try rack.control(["component", "kill", "memory0"]).status == 0)
            // What fits into the ExCache needs none.
            #expect(try rack.run([], ["/bin/echo", "local"]).text == "local\n")
            let result = try rack.run(
                ["--excache", "8MiB", "--user", "nobody"], ["/usr/bin/python3", "-c", "l = list(range(3_000_000))"])
            #expect(result.status == 128 + SIGKILL || result.status == 125, "\(result.status)")
            #expect(result.errors.contains("memory component"), "\(result.errors)")
            #expect(result.errors.split(separator: "\n").count == 1, "\(result.errors)")
        }
    }

    private func withConfiguration(_ text: String, _ body: (Rack) throws -> Void) throws {
        let directory = try Rack.makeDirectory()
        defer { _ = try? Command("rm", ["-rf", directory]).run() }
        try text.write(toFile: directory + "/rack.toml", atomically: false, encoding: .utf8)
        try Rack.with(["--config", directory + "/rack.toml"], body)
    }

    @Test func aLogIsBounded() throws {
        try withConfiguration("[processor]\nlog-size = \"1MiB\"\n") { rack in
            let id = try rack.detach([], ["/usr/bin/seq", "1000000"])
            #expect(try rack.control(["wait", "\(id)"]).status == 0)
            let log = try rack.control(["logs", "\(id)"])
            #expect(log.errors.contains("were dropped (processor.log-size)"), "\(log.errors)")
            let lines = log.text.split(separator: "\n").map { Int($0) ?? -1 }
            let first = try #require(lines.first)
            #expect(first > 1 && lines == Array(first...1_000_000))
            #expect(log.output.count > 1_000_000)
            var status = stat()
            #expect(stat("\(rack.directory)/state/processor0/logs/\(id).log", &status) == 0)
            #expect(status.st_blocks * 512 < 1_300_000)

            #expect(try rack.control(["component", "kill", "processor0"]).status == 0)
            #expect(try rack.control(["component", "start", "processor0"]).status == 0)
            expectOneLine(try rack.control(["logs", "\(id)"]), ["processor0", "log of program \(id)"])
        }
    }

    @Test func theSizeOfTmp() throws {
        try withConfiguration("[processor]\ntmp-size = \"8MiB\"\n") { rack in
            let fill = "head -c $1 /dev/zero > /tmp/file && stat -c %s /tmp/file"
            #expect(try rack.run([], ["/bin/sh", "-c", fill, "sh", "7000000"]).text == "7000000\n")
            let full = try rack.run([], ["/bin/sh", "-c", fill, "sh", "9000000"])
            #expect(full.status != 0 && full.errors.contains("No space left"), "\(full.errors)")
        }
    }
}
