import Foundation
import Glibc
import Kernel
import Testing

/// What a user gets wrong: one clear line, a non-zero exit, and nothing left behind.
@Suite(.serialized)
struct BadInputTests {
    private func expectOneLine(
        _ result: Command.Result, status: Int32? = nil, mentioning words: [String],
        location: SourceLocation = #_sourceLocation
    ) {
        if let status {
            #expect(result.status == status, "\(result.errors)", sourceLocation: location)
        } else {
            #expect(result.status != 0, "\(result.errors)", sourceLocation: location)
        }
        #expect(!result.timedOut, sourceLocation: location)
        let lines = result.errors.split(separator: "\n")
        #expect(lines.count == 1, "\(result.errors)", sourceLocation: location)
        for word in words {
            #expect(result.errors.contains(word), "\(word) is not in: \(result.errors)", sourceLocation: location)
        }
    }

    @Test func programsThatCannotRun() throws {
        try Rack.with { rack in
            expectOneLine(try rack.run([], ["/usr/bin/no-such-program"]), status: 127, mentioning: ["no-such-program"])
            expectOneLine(try rack.run([], ["no-such-program"]), status: 127, mentioning: ["no-such-program"])
            expectOneLine(try rack.run([], ["/etc/passwd"]), status: 126, mentioning: ["/etc/passwd"])
            expectOneLine(try rack.run([], ["/usr"]), status: 126, mentioning: ["/usr"])
            let truncated = rack.directory + "/truncated"
            let whole = try Data(contentsOf: URL(fileURLWithPath: "/bin/true"))
            try whole.prefix(100).write(to: URL(fileURLWithPath: truncated))
            chmod(truncated, 0o755)
            expectOneLine(try rack.run([], [truncated]), status: 126, mentioning: ["truncated"])
            expectOneLine(
                try rack.run(["--cwd", "/no/such/directory"], ["/bin/true"]), mentioning: ["/no/such/directory"])
            #expect(try rack.programs(all: false).isEmpty)
        }
    }

    @Test func namesAndNumbersThatDoNotExist() throws {
        try Rack.with { rack in
            expectOneLine(try rack.control(["component", "kill", "memory9"]), mentioning: ["memory9"])
            expectOneLine(try rack.control(["component", "start", "memory9"]), mentioning: ["memory9"])
            expectOneLine(try rack.control(["component", "start", "memory0"]), mentioning: ["memory0"])
            for command in ["stats", "logs", "kill", "wait"] {
                expectOneLine(try rack.control([command, "4711"]), mentioning: ["4711"])
            }
            expectOneLine(try rack.run(["--excache", "many"], ["/bin/true"]), mentioning: ["many"])
            expectOneLine(try rack.run(["--user", "no-such-user"], ["/bin/true"]), mentioning: ["no-such-user"])
        }
    }

    @Test func aRackThatIsUpAlready() throws {
        try Rack.with { rack in
            let again = try Command(Rack.legoctl, ["rack", "up", "--state", rack.directory + "/state"]).run()
            expectOneLine(again, mentioning: ["up"])
            #expect(try rack.run([], ["/bin/echo", "still here"]).text == "still here\n")
        }
    }

    @Test func noRack() throws {
        let result = try Command(Rack.legoctl, ["--help"]).run()
        #expect(result.status == 0)
        expectOneLine(
            try Command(Rack.legoctl, ["ps"], environment: ["LEGO_RACK": "127.0.0.1:1"]).run(),
            mentioning: ["127.0.0.1:1"])
    }

    @Test func configurationsThatAreWrong() throws {
        let directory = try Rack.makeDirectory()
        defer { _ = try? Command("rm", ["-rf", directory]).run() }
        let path = directory + "/memory.toml"
        let daemon = Rack.products + "/lego-memory"
        func refuses(_ text: String, _ words: [String], location: SourceLocation = #_sourceLocation) throws {
            try text.write(toFile: path, atomically: true, encoding: .utf8)
            let result = try Command(daemon, ["--config", path, "--manager", "127.0.0.1:1"]).run(within: .seconds(20))
            expectOneLine(result, mentioning: ["memory.toml"] + words, location: location)
        }
        let own = try String(
            contentsOfFile: URL(fileURLWithPath: #filePath).deletingLastPathComponent().path
                + "/../../Configs/memory.toml", encoding: .utf8)
        #expect(own.contains("size"))
        try refuses("this is not TOML\n", ["1"])
        try refuses("\n\nno-such-key = 1\n", ["no-such-key"])
        expectOneLine(
            try Command(daemon, ["--config", directory + "/absent.toml", "--manager", "127.0.0.1:1"]).run(),
            mentioning: ["absent.toml"])
    }

    @Test func aPortInUse() throws {
        let directory = try Rack.makeDirectory()
        defer { _ = try? Command("rm", ["-rf", directory]).run() }
        let holder = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(holder) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let bound = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(holder, $0, length) == 0 && listen(holder, 1) == 0 && getsockname(holder, $0, &length) == 0
            }
        }
        try #require(bound)
        let port = UInt16(bigEndian: address.sin_port)
        let result = try Command(
            Rack.products + "/lego-manager",
            ["--listen", "127.0.0.1:\(port)", "--state", directory]
        ).run(within: .seconds(20))
        expectOneLine(result, mentioning: ["\(port)"])
    }

    @Test func notBeingRoot() throws {
        let directory = try Rack.makeDirectory()
        defer { _ = try? Command("rm", ["-rf", directory]).run() }
        let result = try Command(
            "setpriv",
            ["--reuid=65534", "--regid=65534", "--clear-groups", Rack.legoctl, "rack", "up", "--state", directory]
        ).run()
        expectOneLine(result, mentioning: ["root"])
    }
}
