import Foundation
import Testing

/// What people do at the terminal of a program in the rack: edit a file, debug, type ahead of a line editor.
@Suite(.serialized)
struct InteractiveTests {
    private func start(_ rack: Rack, _ program: [String], directory: String = "/tmp") throws -> TerminalCommand {
        try TerminalCommand(
            Rack.legoctl, ["run", "-it", "--user", "nobody", "--cwd", directory, "--"] + program, rows: 30,
            columns: 100, environment: ["LEGO_RACK": rack.address])
    }

    private static let escape = "\u{1b}"

    /// A full-screen editor under a shell: it is stopped and goes on, learns that its window has another size, and what it
    /// saves is in the rack's tree.
    @Test func anEditorUnderAShell() throws {
        try Rack.with { rack in
            let directory = rack.directory + "/work"
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
            chmod(directory, 0o777)
            let shell = try start(rack, ["/bin/bash", "--norc", "--noprofile", "-i"], directory: directory)
            shell.type("PS1='ready'\r")
            #expect(shell.shows("ready") && shell.shows("ready"))
            shell.type("vim.tiny -u NONE note\r")
            #expect(shell.shows("note\" [New"), "\(shell.screen)")
            shell.type("ifirst line\rsecond lime\(Self.escape)")
            shell.type("\u{1a}")
            #expect(shell.shows("Stopped"), "Ctrl-Z: \(shell.screen)")
            #expect(shell.shows("ready"))
            shell.resize(rows: 44, columns: 99)
            shell.type("fg\r")
            // Once more on the screen before it is asked anything.
            #expect(shell.shows("second lime"), "fg: \(shell.screen)")
            shell.type(":set lines? columns?\r")
            #expect(shell.shows("lines=44") && shell.shows("columns=99"), "\(shell.screen)")
            shell.type("\r")
            // A letter replaced where the cursor was left: two to the left of the end.
            shell.type("$hrn:wq\r")
            #expect(shell.shows("written"), "\(shell.screen)")
            #expect(shell.shows("ready"))
            shell.type("echo $LINES $COLUMNS; exit 4\r")
            #expect(shell.shows("44 99"), "the shell's own size: \(shell.screen)")
            #expect(shell.finish() == 4)
            #expect(try rack.run([], ["/bin/cat", directory + "/note"]).text == "first line\nsecond line\n")
        }
    }

    /// Breakpoints, a backtrace with memory that was away, and Ctrl-C, which stops the program and not the debugger.
    @Test func aDebugger() throws {
        try Rack.with { rack in
            let source = URL(fileURLWithPath: #filePath).deletingLastPathComponent().path
            let compiled = try Command(
                "gcc",
                [
                    "-g", "-O0", "-pthread", "-o", rack.directory + "/debuggee",
                    source + "/Programs/workloads/debuggee.c",
                ]
            ).run()
            try #require(compiled.status == 0, "\(compiled.errors)")
            let options = ["set debuginfod enabled off", "set confirm off", "set style enabled off"]
            let debugger = try start(
                rack, ["/usr/bin/gdb", "-nx", "-q"] + options.flatMap { ["-iex", $0] } + ["./debuggee"],
                directory: rack.directory)
            func ask(_ command: String, _ answers: String...) {
                #expect(debugger.shows("(gdb) "), "before \(command): \(debugger.screen)")
                debugger.type(command + "\r")
                for answer in answers { #expect(debugger.shows(answer), "\(command): \(debugger.screen)") }
            }
            ask("break inner if depth == 1 && value == 2000", "Breakpoint 1 at")
            ask("run wait", "hit Breakpoint 1, inner (depth=1, value=2000)")
            ask("backtrace", "#1 ", "inner (depth=2, value=2000)", "#3 ", "work (argument=0x7d0)")
            ask("print numbers[1234567]", "$1 = 3703701")
            ask("delete")
            ask("continue", "waiting\r\n")
            debugger.type("\u{3}")
            #expect(debugger.shows("received signal SIGINT"), "Ctrl-C: \(debugger.screen)")
            ask("set var numbers[1] = 41")
            ask("continue", "41\r\n", "exited with code 05")
            ask("quit")
            #expect(debugger.finish() == 0)
        }
    }

    /// Keys that move in a line and in its history.
    @Test func aLineEditor() throws {
        try Rack.with { rack in
            let python = try start(rack, ["/usr/bin/python3", "-q"])
            #expect(python.shows(">>> "))
            let (home, right, left, up) =
                ("\u{1}", "\(Self.escape)[C", "\(Self.escape)[D", "\(Self.escape)[A")
            python.type("prnt(6 * 7)" + home + right + right + "i\r")
            #expect(python.shows("\n42\r\n"), "\(python.screen)")
            #expect(python.shows(">>> "))
            python.type(up + left + "\u{7f}8\r")
            #expect(python.shows("\n48\r\n"), "\(python.screen)")
            #expect(python.shows(">>> "))
            // It runs when it says so. A key that comes while a line is still being read takes that line with it, and
            // a signal between Python's look for signals and a sleep would be seen after it.
            python.type("exec(\"print('run' + 'ning')\\nwhile 1: pass\")\r")
            #expect(python.shows("running\r\n"), "\(python.screen)")
            python.type("\u{3}")
            #expect(python.shows("KeyboardInterrupt"), "\(python.screen)")
            #expect(python.shows(">>> "))
            python.type("exit(9)\r")
            #expect(python.finish() == 9)
        }
    }

    /// The list of processes is the program's own, with their arguments, in a window that changes its size.
    @Test func aListOfProcesses() throws {
        try Rack.with { rack in
            let top = try start(rack, ["/bin/bash", "-c", "sleep 1000 & exec top -d 0.2"])
            #expect(top.shows("Tasks:") && top.shows("sleep"), "\(top.screen)")
            top.resize(rows: 12, columns: 90)
            top.type("c")
            #expect(top.shows("sleep 1000"), "\(top.screen)")
            top.type("q")
            #expect(top.finish() == 0)
        }
    }
}
