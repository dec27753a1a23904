import Foundation
import Glibc
import Kernel
import Testing

/// `exec`: a process that joins a running program.
@Suite(.serialized)
struct JoinTests {
    private func exec(
        _ rack: Rack, _ id: UInt64, _ options: [String] = [], _ program: [String], input: [UInt8] = []
    ) throws -> Command.Result {
        try rack.control(["exec"] + options + ["\(id)", "--"] + program, input: input)
    }

    @Test func itSharesNamespacesUserAndMemory() throws {
        try Rack.with(["--excache", "64MiB"]) { rack in
            let script = "echo mark > /tmp/mark; cd /tmp; exec sleep 1000"
            let id = try rack.detach(["--env", "FROM=program", "--cwd", "/usr"], ["/bin/sh", "-c", script])
            #expect(
                try rack.eventually { try exec(rack, id, [], ["/bin/cat", "/tmp/mark"]).text == "mark\n" }, "its files")
            let look = "echo $FROM $WITH $PWD $(id -un); cat; for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; done"
            let result = try exec(
                rack, id, ["--env", "WITH=exec"], ["/bin/sh", "-c", look], input: Array("input\n".utf8))
            #expect(result.text.hasPrefix("program exec /usr nobody\ninput\n"), "\(result.text)\(result.errors)")
            #expect(result.text.contains("sleep 1000"), "its processes: \(result.text)")
            #expect(try exec(rack, id, ["--cwd", "/tmp"], ["/bin/pwd"]).text == "/tmp\n")
            #expect(try exec(rack, id, [], ["/bin/sh", "-c", "echo oops >&2; exit 7"]).errors == "oops\n")
            #expect(try exec(rack, id, [], ["/bin/sh", "-c", "exit 7"]).status == 7)
            #expect(try exec(rack, id, [], ["/bin/sh", "-c", "kill -9 $$"]).status == 128 + 9)
            // Beyond the ExCache: its pages go where the program's go.
            let before = try rack.statistics(id)
            let sum = try exec(rack, id, [], ["/usr/bin/python3", "-c", "print(sum(list(range(4_000_000))))"])
            #expect(sum.text == "7999998000000\n", "\(sum.errors)")
            let after = try rack.statistics(id)
            #expect(after.faults > before.faults && after.evictedPages > before.evictedPages)
            #expect(after.peakResidentBytes <= 64 << 20)
        }
    }

    @Test func itHasATerminalOfItsOwn() throws {
        try Rack.with { rack in
            let id = try rack.detach([], ["/bin/sleep", "1000"])
            let command = try TerminalCommand(
                Rack.legoctl, ["exec", "-it", "\(id)", "--", "/bin/bash", "--norc", "-i"], rows: 20, columns: 77,
                environment: ["LEGO_RACK": rack.address])
            let before = command.mode
            command.type("tty; stty size; echo $TERM\r")
            #expect(command.shows("/dev/pts/0"), "\(command.screen)")
            #expect(command.shows("20 77"), "\(command.screen)")
            #expect(command.shows("xterm"))
            command.type("exit 3\r")
            #expect(command.finish() == 3)
            #expect(command.mode == before)
        }
    }

    @Test func itEndsWithTheProgram() throws {
        try Rack.with { rack in
            let id = try rack.detach([], ["/bin/sleep", "1000"])
            let joined = try rack.command(["exec", "\(id)", "--", "/bin/sh", "-c", "echo in; exec sleep 1000"]).start()
            #expect(joined.pump(until: .after(.seconds(20))) { output, _ in output == Array("in\n".utf8) })
            _ = try rack.control(["kill", "-s", "KILL", "\(id)"])
            let result = joined.finish(until: .after(.seconds(20)))
            #expect(result.status == 128 + 9 && !result.timedOut)
            #expect(result.errors.contains("the program has ended, and with it what had joined it"), "\(result.errors)")
            // And legoctl's end is its own.
            let other = try rack.detach([], ["/bin/sleep", "1000"])
            let left = try rack.command(["exec", "\(other)", "--", "/bin/sh", "-c", "echo in; exec sleep 999"]).start()
            #expect(left.pump(until: .after(.seconds(20))) { output, _ in output == Array("in\n".utf8) })
            left.signal(SIGKILL)
            #expect(
                try rack.eventually {
                    try !exec(rack, other, [], ["/bin/sh", "-c", "cat /proc/[0-9]*/cmdline"]).text.contains("999\0")
                })
            #expect(try rack.programs(all: false).map(\.id) == [other])
        }
    }

    @Test func itsRefusalsAreClear() throws {
        try Rack.with { rack in
            let none = try exec(rack, 99, [], ["/bin/true"])
            #expect(none.status == 1 && none.errors.contains("there is no program 99"), "\(none.errors)")
            let id = try rack.detach([], ["/bin/sleep", "1000"])
            let missing = try exec(rack, id, [], ["/no/such"])
            #expect(missing.status == 127 && missing.errors.contains("/no/such: no such program"), "\(missing.errors)")
            let directory = try exec(rack, id, ["--cwd", "/no/dir"], ["/bin/true"])
            #expect(directory.status == 125 && directory.errors.contains("/no/dir"), "\(directory.errors)")
            // Another user's: as with kill and logs.
            let foreign = Command(
                "setpriv",
                ["--reuid", "daemon", "--clear-groups", Rack.legoctl, "exec", "\(id)", "--", "/bin/true"],
                environment: ["LEGO_RACK": rack.address])
            let refused = try foreign.run()
            #expect(refused.status != 0 && refused.errors.contains("belongs to nobody"), "\(refused.errors)")
            _ = try rack.control(["kill", "-s", "KILL", "\(id)"])
            _ = try rack.control(["wait", "\(id)"])
            let ended = try exec(rack, id, [], ["/bin/true"])
            #expect(ended.status == 125 && ended.errors.contains("has ended already"), "\(ended.errors)")
            let nameless = try rack.control(["exec", "\(id)"])
            #expect(nameless.status == 64 && nameless.errors.contains("no command is named"), "\(nameless.errors)")
        }
    }
}
