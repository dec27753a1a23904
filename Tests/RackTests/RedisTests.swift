import Foundation
import Glibc
import Kernel
import Testing

/// A server with a forked child that writes a snapshot while clients change its memory.
@Suite(.serialized)
struct RedisTests {
    /// Fills a server, saves in the background, and answers the digest of its data and of what the snapshot holds.
    private func exercise(_ server: RunningCommand, port: UInt16, directory: String) throws -> (
        live: String, saved: String
    ) {
        func client(_ words: [String]) throws -> String {
            let result = try Command("redis-cli", ["-p", "\(port)"] + words).run(within: .seconds(120))
            return result.text.trimmingCharacters(in: .whitespacesAndNewlines)
        }
        let deadline = Deadline.after(.seconds(60))
        while try client(["ping"]) != "PONG" {
            try #require(!deadline.hasPassed, "redis-server does not answer")
            usleep(50_000)
        }
        #expect(try client(["debug", "populate", "100000", "key", "200"]) == "OK")
        let load = try Command(
            "redis-benchmark", ["-p", "\(port)", "-n", "20000", "-r", "100000", "-c", "20", "-t", "get", "-q"]
        ).run(within: .seconds(120))
        #expect(load.status == 0, "\(load.errors)")
        _ = try client(["bgsave"])
        while true {
            try #require(!deadline.hasPassed, "the snapshot did not end")
            let state = try client(["info", "persistence"])
            if state.contains("rdb_bgsave_in_progress:0") {
                #expect(state.contains("rdb_last_bgsave_status:ok"))
                break
            }
            usleep(50_000)
        }
        let live = try client(["debug", "digest"])
        #expect(try client(["debug", "reload", "nosave"]) == "OK")
        let saved = try client(["debug", "digest"])
        _ = try client(["shutdown", "nosave"])
        return (live, saved)
    }

    private func arguments(port: UInt16, directory: String) -> [String] {
        [
            "--port", "\(port)", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", directory,
            "--daemonize", "no", "--enable-debug-command", "local",
        ]
    }

    @Test func backgroundSaveOfAServerInTheRackEqualsANativeOne() throws {
        try Rack.with(["--memory-size", "1GiB"]) { rack in
            let directory = rack.directory + "/redis"
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
            chmod(directory, 0o777)
            let server = directory + "/redis-server"
            try FileManager.default.copyItem(atPath: "/usr/bin/redis-check-rdb", toPath: server)

            let native = try Command(server, arguments(port: 17771, directory: directory)).start()
            let expected = try exercise(native, port: 17771, directory: directory)
            _ = native.finish(until: .after(.seconds(20)))

            let running = try rack.command(
                ["run", "--excache", "24MiB", "--", server] + arguments(port: 17772, directory: directory)
            ).start()
            let actual = try exercise(running, port: 17772, directory: directory)
            let ended = running.finish(until: .after(.seconds(20)))
            #expect(ended.status == 0, "\(ended.errors)")
            #expect(actual.live == expected.live)
            #expect(actual.saved == expected.saved)
            #expect(expected.live == expected.saved)
        }
    }
}
