import CLinux
import Glibc
import Kernel
import Testing

@testable import ProcessorService

/// Signals, and sudden deaths of everybody involved.
@Suite(.serialized) struct SandboxSignalTests {
    @Test func signalReachesTheFirstProcess() throws {
        let running = try RunningSandbox(
            SandboxHarness.plan([
                "bash", "-c", "trap 'echo caught; exit 4' USR1; echo up; while :; do sleep 0.01; done",
            ]))
        #expect(running.sandbox.release())
        #expect(try running.readLine() == "up")
        #expect(running.sandbox.signal(SIGUSR1, group: false))
        #expect(try running.readLine() == "caught")
        #expect(try running.finish().exitStatus == 4)
        #expect(!running.sandbox.signal(SIGUSR1, group: false))
    }

    @Test func interruptReachesTheWholeForegroundGroup() throws {
        // The shell waits for its child: it ends only because the child is interrupted too.
        let running = try RunningSandbox(
            SandboxHarness.plan(["bash", "-c", "trap : INT; echo up; sleep 1000; echo after"]))
        #expect(running.sandbox.release())
        #expect(try running.readLine() == "up")
        let shell = running.sandbox.program
        #expect(eventually { readText("/proc/\(shell)/task/\(shell)/children") != "" })
        #expect(running.sandbox.signal(SIGINT, group: true))
        #expect(try running.readLine() == "after")
    }

    @Test func terminalStopStopsAndContinueContinues() throws {
        let running = try RunningSandbox(SandboxHarness.plan(["sh", "-c", "echo up; read line; echo $line"]))
        #expect(running.sandbox.release())
        #expect(try running.readLine() == "up")
        let process = running.sandbox.program
        #expect(running.sandbox.signal(SIGTSTP, group: true))
        #expect(eventually { readText("/proc/\(process)/status").contains("State:\tT (stopped)") })
        #expect(running.sandbox.signal(SIGCONT, group: true))
        try running.write("on\n")
        #expect(try running.finish().output == "on\n")
    }

    @Test func killEndsEveryProcess() throws {
        let running = try RunningSandbox(
            SandboxHarness.plan(["bash", "-c", "trap '' TERM INT HUP; setsid sleep 1000 & echo $!; wait"]))
        #expect(running.sandbox.release())
        _ = try running.readLine()
        running.sandbox.kill()
        #expect(try running.end() == .program(status: SIGKILL))
        #expect(!isAlive(running.sandbox.program))
        #expect(!isAlive(running.sandbox.initProcess))
    }

    @Test func killedGuardianTakesTheProgramAlong() throws {
        let running = try RunningSandbox(SandboxHarness.plan(["sleep", "1000"]))
        #expect(running.sandbox.release())
        let sandbox = running.sandbox
        let status = readText("/proc/\(sandbox.initProcess)/status")
        let line = try #require(status.split(separator: "\n").first { $0.hasPrefix("PPid:") })
        let guardian = try #require(Int32(line.dropFirst(5).drop { $0 == "\t" }))
        #expect(kill(guardian, SIGKILL) == 0)
        #expect(try running.end() == .guardianLost)
        #expect(eventually { !isAlive(sandbox.program) && !isAlive(sandbox.initProcess) })
    }

    @Test func programWhoseTrapNobodyAnswersDiesWithTheDaemon() throws {
        let directory = try TemporaryDirectory()
        let tests = #filePath[..<(#filePath.lastIndex(of: "/") ?? #filePath.endIndex)]
        let linux = "\(tests)/../../Sources/CLinux"
        try Shell.compile(
            "\(tests)/Programs/short_lived_daemon.c", to: "\(directory.path)/daemon",
            with: [
                "-D_GNU_SOURCE", "-I\(linux)/include", "\(linux)/lego_process.c", "\(linux)/lego_socket.c",
            ])
        let pipe = try Pipe()
        let null = Descriptor(taking: open("/dev/null", O_RDWR | O_CLOEXEC))
        let daemon = Shell.spawn(
            ["\(directory.path)/daemon", SandboxHarness.executable, "/bin/sleep", "1000"],
            [null.raw, pipe.writing.raw, null.raw])
        try #require(daemon > 0)
        var buffer = [UInt8](repeating: 0, count: 128)
        var waited = pollfd(fd: pipe.reading.raw, events: Int16(POLLIN), revents: 0)
        let isReady = poll(&waited, 1, 30_000) == 1
        let count = isReady ? read(pipe.reading.raw, &buffer, buffer.count) : 0
        let text = String(decoding: buffer.prefix(max(0, count)), as: UTF8.self)
        let processes = text.split(whereSeparator: { $0 == " " || $0 == "\n" }).compactMap { Int32($0) }
        // The program hangs in its trapped call; the end of the daemon must not answer that call.
        let hangs =
            processes.count == 3
            && eventually { readText("/proc/\(processes[2])/wchan").hasPrefix("seccomp") }
        #expect(processes.allSatisfy(isAlive))
        kill(daemon, SIGKILL)
        waitpid(daemon, nil, 0)
        #expect(hangs)
        #expect(eventually { !processes.contains(where: isAlive) })
    }

    @Test func guardianKeepsFaultDescriptorsOfTheLiving() throws {
        let running = try RunningSandbox(SandboxHarness.plan(["sleep", "1000"]))
        #expect(running.sandbox.release())
        let pipe = try Pipe()
        for _ in 0..<200 {
            var kind = UInt8(ascii: "u")
            var descriptor = pipe.writing.raw
            #expect(lego_send_descriptors(running.sandbox.faultSocket, &kind, 1, &descriptor, 1) == 1)
        }
        let reading = pipe.keepReading()
        // Every copy is held: the reader sees no end until the guardian does.
        var waited = pollfd(fd: reading.raw, events: Int16(POLLIN), revents: 0)
        #expect(poll(&waited, 1, 0) == 0)
        running.sandbox.kill()
        #expect(try running.end() == .program(status: SIGKILL))
        running.sandbox.reap()
        #expect(poll(&waited, 1, 20_000) == 1 && waited.revents & Int16(POLLHUP) != 0)
    }
}
