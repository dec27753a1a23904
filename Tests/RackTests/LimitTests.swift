import Foundation
import Glibc
import ManagementAPI
import Testing

/// Limits of a program, what it sees of them, and the figures that users see.
@Suite(.serialized)
struct LimitTests {
    private static let mebibyte: UInt64 = 1 << 20

    @Test func aProgramBeyondItsQuotaIsKilledAlone() throws {
        try Rack.with(["--excache", "64MiB"]) { rack in
            let other = try rack.detach([], ["/bin/sleep", "1000"])
            let grow = """
                import sys
                b = bytearray(int(sys.argv[1]) << 20); b[::4096] = b'x' * len(b[::4096]); print(len(b))
                """
            for (limit, wanted) in [("96MiB", "200"), ("24MiB", "100")] {
                let result = try rack.run(["--memory", limit], ["/usr/bin/python3", "-c", grow, wanted])
                #expect(result.status == 128 + SIGKILL && result.text.isEmpty)
                #expect(
                    result.errors.contains(
                        "it took more memory than its quota of \(limit.dropLast(3)).0 MiB (--memory)"),
                    "\(result.errors)")
            }
            // Room again by giving back; forked processes share what they do not change.
            let cycle = """
                import os
                for _ in range(8):
                    b = bytearray(40 << 20); b[::4096] = b'x' * len(b[::4096]); del b
                b = bytearray(60 << 20); b[::4096] = b'x' * len(b[::4096])
                for _ in range(4):
                    if os.fork() == 0: os._exit(b[4096] - ord('x'))
                    assert os.wait()[1] == 0
                print('fine')
                """
            let fine = try rack.run(["--memory", "110MiB"], ["/usr/bin/python3", "-c", cycle])
            #expect(fine.text == "fine\n", "\(fine.errors)")
            #expect(try rack.programs(all: false).map(\.id) == [other])
        }
    }

    /// By a user who is not the daemon's, in a process and in a child that has no agent yet.
    @Test func aProgramKeepsItsOwnLimits() throws {
        try Rack.with { rack in
            let script = """
                import mmap, os, resource
                def attempt(size):
                    try: mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); return 'mapped'
                    except OSError as error: return error.errno
                def limited(kind):
                    used = int(open('/proc/self/statm').read().split()[0]) * mmap.PAGESIZE
                    resource.setrlimit(kind, (used + (64 << 20), used + (64 << 20)))
                    print(attempt(32 << 20), attempt(128 << 20), flush=True)
                for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
                    if os.fork() == 0: limited(kind); os._exit(0)
                    os.wait()
                limited(resource.RLIMIT_AS)
                """
            let result = try rack.run(["--user", "nobody"], ["/usr/bin/python3", "-c", script])
            #expect(result.text == String(repeating: "mapped \(ENOMEM)\n", count: 3), "\(result.errors)")
        }
    }

    /// Limits that leave less room than an agent takes: of addresses, of data, of descriptors, in a forked child and in the
    /// image that it becomes.
    @Test func limitsWithoutRoomForAnAgent() throws {
        let script = """
            for limit in v:2000 v:3000 v:4000 v:8000 v:30000 d:0 d:300 d:600 d:2000 n:3 n:4 n:6 n:9 n:20; do
                (
                    ulimit -${limit%:*} ${limit#*:}
                    /bin/true; echo $limit $?
                    cut -b 1 /dev/null; echo $limit $?
                    (exit 3); echo $limit $?
                    exec perl -e '@a = (1..1000); print scalar(@a), qq(\\n)'
                ) 2> /dev/null
                echo $limit $?
            done
            """
        let native = try Command(
            "setpriv", ["--reuid=nobody", "--regid=nogroup", "--clear-groups", "/bin/bash", "-c", script]
        ).run()
        #expect(native.text.contains("v:2000 127") && native.text.contains("v:30000 0"), "\(native.text)")
        try Rack.with { rack in
            let result = try rack.run(["--user", "nobody"], ["/bin/bash", "-c", script])
            #expect(result.status == native.status, "\(result.errors)")
            #expect(result.text == native.text)
        }
    }

    @Test func aProgramStaysOnItsProcessors() throws {
        try Rack.with { rack in
            let script = """
                import os, subprocess
                print(subprocess.check_output(['nproc'], text=True).strip(), sorted(os.sched_getaffinity(0)))
                try:
                    os.sched_setaffinity(0, {1})
                    print('left')
                except OSError as error:
                    print(error.errno)
                os.sched_setaffinity(0, {0, 1})
                child = subprocess.Popen(['sleep', '100'])
                os.sched_setaffinity(child.pid, {0, 1})
                print(sorted(os.sched_getaffinity(0)), sorted(os.sched_getaffinity(child.pid)))
                child.kill()
                """
            let result = try rack.run(["--cpus", "0"], ["/usr/bin/python3", "-c", script])
            #expect(result.text == "1 [0]\n\(EINVAL)\n[0] [0]\n", "\(result.errors)")
            let absent = try rack.run(["--cpus", "0,900"], ["/bin/true"])
            #expect(absent.status == 125 && absent.errors.contains("has no CPU 900"), "\(absent.errors)")
            let wrong = try rack.run(["--cpus", "2-1"], ["/bin/true"])
            #expect(wrong.status == 64 && wrong.errors.contains("numbers and ranges such as 0,2-3"), "\(wrong.errors)")
        }
    }

    @Test func figuresAreShownAgainAndAgain() throws {
        try Rack.with { rack in
            let id = try rack.detach(["--name", "first"], ["/bin/sleep", "1000"])
            func lines(_ options: [String], _ count: Int) throws -> [String] {
                let watch = try rack.command(["stats", "--watch", "--interval", "100ms"] + options).start()
                defer { watch.signal(SIGTERM) }
                var text = ""
                let isThere = watch.pump(until: .after(.seconds(20))) { output, _ in
                    text = String(decoding: output, as: UTF8.self)
                    return text.split(separator: "\n").count >= count
                }
                #expect(isThere, "\(text)")
                return text.split(separator: "\n").prefix(count).map(String.init)
            }
            for line in try lines(["\(id)"], 3) {
                #expect(line.hasPrefix("id=\(id) name=first faults=") && line.contains(" resident="), "\(line)")
            }
            for line in try lines(["--json"], 3) {
                #expect(try JSONDecoder().decode(ProgramStats.self, from: Data(line.utf8)).id == id)
            }
            let terminal = try TerminalCommand(
                Rack.legoctl, ["stats", "--watch", "--interval", "100ms"], rows: 24, columns: 120,
                environment: ["LEGO_RACK": rack.address])
            for _ in 0..<2 { #expect(terminal.shows("\u{1b}[H\u{1b}[JID  NAME"), "\(terminal.screen)") }
            #expect(terminal.shows("first"))
            // It ends with the program.
            let last = try rack.command(["stats", "--watch", "--interval", "100ms", "\(id)"]).start()
            _ = try rack.control(["kill", "-s", "KILL", "\(id)"])
            let result = last.finish(until: .after(.seconds(20)))
            #expect(result.status == 0 && !result.timedOut)
        }
    }
}
