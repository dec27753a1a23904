import Foundation
import Glibc
import Kernel
import ManagementAPI
import Testing

/// Daemons that were started by hand on several hosts: the processor and the manager on one, memory on the next, files
/// on a third.
@Suite(.serialized)
struct SeveralHostsTests {
    private static let memoryHost = 1
    private static let storageHost = 2

    /// A rack whose components reach each other over wires only.
    private final class SpreadRack {
        let directory: String
        let hosts: HostNetwork
        private var daemons: [RunningCommand] = []
        private static let managerAddress = HostNetwork.address(of: 0) + ":7070"
        private static let apiAddress = "127.0.0.1:7071"

        init() throws {
            directory = try Rack.makeDirectory()
            hosts = try HostNetwork(hosts: 3)
            // Files that name every daemon's configuration, as on hosts of their own.
            let configurations = URL(fileURLWithPath: #filePath).deletingLastPathComponent().path + "/../../Configs"
            try start(
                "manager", on: 0,
                ["--listen", Self.managerAddress, "--api", Self.apiAddress, "--state", directory + "/manager"])
            for (kind, host, options) in [
                ("memory", memoryHost, ["--size", "512MiB"]),
                ("storage", storageHost, ["--state", directory + "/storage"]),
                ("processor", 0, ["--state", directory + "/processor"]),
            ] {
                try start(
                    kind, on: host,
                    [
                        "--config", "\(configurations)/\(kind).toml", "--manager", Self.managerAddress, "--listen",
                        HostNetwork.address(of: host) + ":0", "--name", kind,
                    ] + options)
            }
            let isUp = try eventually {
                let components = (try? components()) ?? []
                return components.count == 4 && components.allSatisfy { $0.health == "healthy" }
            }
            try #require(isUp, "the components did not find each other")
        }

        private func start(_ kind: String, on host: Int, _ options: [String]) throws {
            let daemon = hosts.command(on: host, Rack.products + "/lego-\(kind)", options)
            // Ended even when the test itself is killed.
            daemons.append(try Command("timeout", ["-k", "5", "300", daemon.path] + daemon.arguments).start())
        }

        func command(_ arguments: [String]) -> Command {
            hosts.command(on: 0, Rack.legoctl, arguments, environment: ["LEGO_RACK": Self.apiAddress])
        }

        func run(_ program: [String], within limit: Duration = .seconds(60)) throws -> Command.Result {
            try command(["run", "--excache", "16MiB", "--"] + program).run(within: limit)
        }

        func components() throws -> [RackStatus.Component] {
            let result = try command(["status", "--json"]).run()
            return try JSONDecoder().decode(RackStatus.self, from: Data(result.output)).components
        }

        func health(of kind: String) throws -> String? { try components().first { $0.kind == kind }?.health }

        func eventually(_ condition: () throws -> Bool) throws -> Bool {
            let deadline = Deadline.after(.seconds(20))
            while !deadline.hasPassed {
                if try condition() { return true }
                usleep(50_000)
            }
            return false
        }

        /// Stops every daemon as systemd would, and looks for what is left.
        func tearDown() {
            for daemon in daemons.reversed() {
                daemon.signal(SIGTERM)
                let result = daemon.finish(until: .after(.seconds(15)))
                #expect(result.status == 0, "a daemon ended with \(result.status): \(result.errors.suffix(500))")
            }
            #expect(Rack.leftovers(of: directory) == [])
            _ = try? Command("rm", ["-rf", directory]).run()
        }
    }

    private func withRack(_ body: (SpreadRack) throws -> Void) throws {
        let rack = try SpreadRack()
        defer { rack.tearDown() }
        try body(rack)
    }

    private static let holder = """
        l = [i * 7 for i in range(1_500_000)]
        print('ready', flush=True)
        while True: assert sum(l) == 7 * 1_500_000 * 1_499_999 // 2
        """

    @Test func memoryAndFilesAreOnOtherHosts() throws {
        try withRack { rack in
            let before = try rack.hosts.bytesSent(to: Self.memoryHost)
            let script = "l = [i * 7 for i in range(2_000_000)]; print(sum(l))"
            let result = try rack.run(["/usr/bin/python3", "-c", script])
            #expect(result.text == "\((0..<2_000_000).reduce(0) { $0 + $1 * 7 })\n", "\(result.errors)")
            let statistics = try rack.command(["stats", "--json", "1"]).run()
            let counted = try JSONDecoder().decode(ProgramStats.self, from: Data(statistics.output))
            let sent = try rack.hosts.bytesSent(to: Self.memoryHost) - before
            #expect(counted.remoteWritePages > 5000)
            #expect(sent >= counted.remoteWritePages << 12, "\(sent) bytes went over the wire")

            let written = try rack.run([
                "/bin/sh", "-c", "seq 100000 > /var/tmp/lego-spread && md5sum < /var/tmp/lego-spread",
            ])
            #expect(written.text == "dea9193b768319cbb4ff1a137ac03113  -\n", "\(written.errors)")
            #expect(!FileManager.default.fileExists(atPath: "/var/tmp/lego-spread"), "the host's tree was written to")
            #expect(try rack.hosts.bytesSent(to: Self.storageHost) > 588_895)
        }
    }

    @Test func aWireThatIsPulledIsTheLossOfWhatIsBehindIt() throws {
        try withRack { rack in
            let running = try rack.command(["run", "--excache", "16MiB", "--", "/usr/bin/python3", "-c", Self.holder])
                .start()
            let isReady = running.pump(until: .after(.seconds(60))) { output, _ in output.starts(with: "ready".utf8) }
            try #require(isReady)
            try rack.hosts.setWire(to: Self.memoryHost, isUp: false)
            let ended = running.finish(until: .after(.seconds(20)))
            #expect(ended.status == 125)
            #expect(ended.errors.contains("memory component memory was lost"), "\(ended.errors)")
            #expect(try rack.health(of: "memory") == "lost")
            #expect(try rack.health(of: "storage") == "healthy")

            try rack.hosts.setWire(to: Self.memoryHost, isUp: true)
            #expect(try rack.eventually { try rack.health(of: "memory") == "healthy" })
            let again = try rack.run(["/usr/bin/python3", "-c", "print(len([0] * 8_000_000))"])
            #expect(again.text == "8000000\n", "\(again.errors)")
        }
    }

    @Test func filesBehindAPulledWireAnswerWithAnErrorAndComeBack() throws {
        try withRack { rack in
            let program = rack.directory + "/fsyncloop.py"
            let source = URL(fileURLWithPath: #filePath).deletingLastPathComponent().path + "/Programs/fsyncloop.py"
            try FileManager.default.copyItem(atPath: source, toPath: program)
            let running = try rack.command(["run", "--", "/usr/bin/python3", program, "/var/tmp/lego-records"]).start()
            func waitForLine(_ start: String) throws {
                var known: Int?
                let isThere = running.pump(until: .after(.seconds(40))) { output, _ in
                    let lines = String(decoding: output, as: UTF8.self).split(separator: "\n")
                    let first = known ?? lines.count
                    known = first
                    return lines.dropFirst(first).contains { $0.hasPrefix(start) }
                }
                try #require(isThere, "no line that begins with '\(start)'")
            }
            try waitForLine("ok ")
            try rack.hosts.setWire(to: Self.storageHost, isUp: false)
            try waitForLine("EIO ")
            #expect(try rack.health(of: "storage") == "lost")
            try rack.hosts.setWire(to: Self.storageHost, isUp: true)
            #expect(try rack.eventually { try rack.health(of: "storage") == "healthy" })
            try waitForLine("ok ")
            running.signal(SIGTERM)
            let ended = running.finish(until: .after(.seconds(20)))
            #expect(ended.status == 128 + SIGTERM, "\(ended.errors)")
            #expect(!ended.text.contains("WRONG"))
        }
    }
}
