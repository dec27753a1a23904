import Foundation
import Glibc
import Testing

/// `run -it`: a program at a terminal of its own behind the user's.
@Suite(.serialized)
struct TerminalTests {
    private func start(
        _ rack: Rack, _ program: [String], options: [String] = ["-it"], rows: UInt16 = 33, columns: UInt16 = 101
    ) throws -> TerminalCommand {
        try TerminalCommand(
            Rack.legoctl, ["run"] + options + ["--"] + program, rows: rows, columns: columns,
            environment: ["LEGO_RACK": rack.address])
    }

    private static let look = """
        import os, signal, sys
        def show(*ignored):
            size = os.get_terminal_size(0)
            print('size', size.lines, size.columns, flush=True)
        signal.signal(signal.SIGWINCH, show)
        print([os.isatty(n) for n in (0, 1, 2)], os.ttyname(0), os.environ['TERM'])
        print('leads', os.getsid(0) == os.getpid(), os.tcgetpgrp(0) == os.getpgrp(), open('/dev/tty').isatty())
        show()
        print('read', sys.stdin.readline().strip(), sys.stdin.readline().strip())
        sys.exit(7)
        """

    @Test func theProgramHasARealTerminal() throws {
        try Rack.with { rack in
            let command = try start(rack, ["/usr/bin/python3", "-c", Self.look])
            let before = command.mode
            #expect(command.shows("[True, True, True] /dev/pts/0 xterm"))
            #expect(command.shows("leads True True True"))
            #expect(command.shows("size 33 101"), "the size at the start")
            command.resize(rows: 40, columns: 132)
            #expect(command.shows("size 40 132"), "the size after SIGWINCH")
            // Edited by the program's terminal, not by this one: a wrong letter and the key that takes it back.
            command.type("onx\u{7f}e\rtwo\r")
            #expect(command.shows("read one two"), "\(command.screen)")
            #expect(command.finish() == 7)
            #expect(command.mode == before)
        }
    }

    @Test func aShellControlsItsJobs() throws {
        try Rack.with { rack in
            let command = try start(rack, ["/bin/bash", "--norc", "--noprofile", "-i"])
            command.type("PS1='ready'; trap\r")
            #expect(command.shows("ready"))
            #expect(command.shows("ready"), "\(command.screen)")
            // What the job says is not what was typed: it has the terminal when it has said so.
            command.type("sh -c 'echo under\"\"way; exec sleep 1000'\r")
            #expect(command.shows("underway"))
            command.type("\u{1a}")
            #expect(command.shows("Stopped"), "Ctrl-Z: \(command.screen)")
            #expect(command.shows("ready"))
            command.type("bg; jobs -r | wc -l\r")
            #expect(command.shows("\n1\r\n"), "bg: \(command.screen)")
            #expect(command.shows("ready"))
            command.type("fg\r")
            #expect(command.shows("sleep 1000'\r\n"), "fg: \(command.screen)")
            // The shell says so before it hands the terminal over: the key may come too early.
            var isInterrupted = false
            for _ in 0..<20 where !isInterrupted {
                command.type("\u{3}")
                isInterrupted = command.shows("ready", within: .seconds(1))
            }
            #expect(isInterrupted, "Ctrl-C: \(command.screen)")
            command.type("echo status $?\r")
            #expect(command.shows("status 130"), "\(command.screen)")
            command.type("exit 5\r")
            #expect(command.finish() == 5)
        }
    }

    @Test func theUsersTerminalIsRestoredHoweverItEnds() throws {
        try Rack.with { rack in
            for end in ["TERM", "HUP", "kill"] {
                let command = try start(rack, ["/bin/sh", "-c", "echo up; exec sleep 1000"])
                let before = command.mode
                #expect(command.shows("up"))
                #expect(command.mode != before, "not raw")
                switch end {
                case "TERM": kill(command.pid, SIGTERM)
                case "HUP": kill(command.pid, SIGHUP)
                default:
                    let id = try #require(rack.programs(all: false).first).id
                    _ = try rack.control(["kill", "-s", "KILL", "\(id)"])
                }
                let status = command.finish()
                #expect(status == (end == "TERM" ? 128 + SIGTERM : end == "HUP" ? 128 + SIGHUP : 128 + SIGKILL))
                #expect(command.mode == before, "after \(end)")
                #expect(try rack.eventually { try rack.programs(all: false).isEmpty }, "the program lives on")
            }
            // Loads nothing after that: a processor that is killed while it opens a program's file may hang (docs/FAILURES.md).
            let command = try start(rack, ["/bin/sh", "-c", "echo up; read line"])
            let before = command.mode
            #expect(command.shows("up"))
            let killed = try rack.control(["component", "kill", "processor0"])
            #expect(killed.status == 0, "\(killed.errors)")
            #expect(command.finish(within: .seconds(30)) == 125)
            #expect(command.mode == before, "after the processor's death")
        }
    }

    private func attach(_ rack: Rack, _ id: UInt64, rows: UInt16 = 50, columns: UInt16 = 90) throws -> TerminalCommand {
        try TerminalCommand(
            Rack.legoctl, ["attach", "\(id)"], rows: rows, columns: columns, environment: ["LEGO_RACK": rack.address])
    }

    /// A shell runs its trap when a line has been entered.
    private func isTold(_ shell: TerminalCommand, _ size: String) -> Bool {
        for _ in 0..<20 {
            shell.type("\r")
            if shell.shows(size, within: .seconds(1)) { return true }
        }
        return false
    }

    @Test func aUserLeavesAndComesBack() throws {
        try Rack.with { rack in
            let first = try start(rack, ["/bin/bash", "--norc", "--noprofile", "-i"])
            let before = first.mode
            first.type("PS1='ready'; kept=here\r")
            #expect(first.shows("ready") && first.shows("ready"))
            // Ctrl-P alone is the program's: it calls the last line back.
            first.type("echo o''ne\r")
            #expect(first.shows("one") && first.shows("ready"), "\(first.screen)")
            first.type("\u{10}\r")
            #expect(first.shows("one") && first.shows("ready"), "Ctrl-P: \(first.screen)")
            let id = try #require(rack.programs(all: false).first).id
            // Somebody is there already.
            let second = try attach(rack, id)
            #expect(second.shows("somebody else is attached"), "\(second.screen)")
            #expect(second.finish() == 1)
            // More than a terminal holds while nobody looks. The file says when it is through.
            first.type("trap 'echo size $(stty size)' WINCH; seq 300000; echo through > /tmp/mark\r")
            #expect(first.shows("\n1000\r\n"))
            first.type("\u{10}")
            first.type("\u{11}")
            #expect(first.shows("legoctl attach \(id)"), "\(first.screen)")
            #expect(first.finish() == 0)
            #expect(first.mode == before)
            #expect(
                try rack.eventually(within: .seconds(40)) {
                    try rack.control(["exec", "\(id)", "--", "/bin/cat", "/tmp/mark"]).text == "through\n"
                }, "the program waits for a reader")
            // The same size as the last one's: told all the same.
            let third = try attach(rack, id, rows: 33, columns: 101)
            #expect(isTold(third, "size 33 101"), "\(third.screen)")
            // A change that comes while the shell's trap for the last one runs is lost on it, and one that comes while it makes
            // ready for the next line may be undone.
            third.type("echo settl''ed\r")
            #expect(third.shows("settled") && third.shows("ready"), "\(third.screen)")
            third.resize(rows: 20, columns: 70)
            #expect(isTold(third, "size 20 70"), "\(third.screen)")
            // The terminal's size, not $COLUMNS: a shell with a trap notes a change some time later.
            third.type("trap - WINCH; echo $kept $(stty size)\r")
            #expect(third.shows("here 20 70"), "\(third.screen)")
            third.type("\u{10}\u{11}")
            #expect(third.finish() == 0)
            let last = try attach(rack, id)
            last.type("exit 6\r")
            #expect(last.finish() == 6)
            let none = try attach(rack, id)
            #expect(none.shows("has ended already"), "\(none.screen)")
            #expect(none.finish() == 1)
            // What has no terminal cannot be left, and who asks for it without one is told.
            let detached = try rack.detach([], ["/bin/sleep", "1000"])
            let refused = try attach(rack, detached)
            #expect(refused.shows("is detached"), "\(refused.screen)")
            let plain = try rack.control(["attach", "\(detached)"])
            #expect(plain.status == 64 && plain.errors.contains("needs a terminal"), "\(plain.errors)")
        }
    }

    @Test func fullScreenPrograms() throws {
        try Rack.with { rack in
            let top = try start(rack, ["/usr/bin/top"])
            #expect(top.shows("PID"))
            #expect(top.shows("top"), "\(top.screen)")
            top.type("q")
            #expect(top.finish() == 0)
            let python = try start(rack, ["/usr/bin/python3", "-q", "-i"])
            #expect(python.shows(">>> "))
            python.type("print(6 * 7)\r")
            #expect(python.shows("42"))
            #expect(python.shows(">>> "))
            python.type("\u{4}")
            #expect(python.finish() == 0)
            let less = try start(rack, ["/usr/bin/less", "/etc/services"], rows: 10)
            #expect(less.shows("/etc/services"))
            less.type("G")
            #expect(less.shows("(END)"), "\(less.screen)")
            less.type("q")
            #expect(less.finish() == 0)
        }
    }

    @Test func withoutATerminalThereIsNone() throws {
        try Rack.with { rack in
            for options in [["-t"], ["-it"]] {
                let result = try rack.run(options, ["/bin/true"])
                #expect(result.status == 64)
                #expect(
                    result.errors
                        == "legoctl: -t needs a terminal on standard input, and this is none; leave -t out\n")
            }
            let both = try rack.control(["run", "-it", "--detach", "--", "/bin/true"])
            #expect(both.status == 64 && both.errors.contains("--detach excludes -i and -t"), "\(both.errors)")
            // -i alone is what any program gets.
            let interactive = try rack.run(["-i"], ["/bin/cat"], input: Array("through".utf8))
            #expect(interactive.text == "through" && interactive.status == 0)
        }
    }
}
