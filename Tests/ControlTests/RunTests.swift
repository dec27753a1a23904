import Glibc
import Kernel
import ManagementAPI
import Synchronization
import Testing
import Wire

/// `legoctl run` and its relatives behave like the program: streams, signals and the end. Real processes and sockets;
/// manager and processor are the test's.
@Suite(.serialized)
struct RunTests {
    private func withRack(
        ended: ProgramStatus = FakeRack.status(.exited, exitStatus: 0),
        attach: @escaping @Sendable (FakeProcessor) -> Void, _ body: (FakeRack) throws -> Void
    ) throws {
        let rack = try FakeRack(ended: ended, attach: attach)
        defer { rack.stop() }
        try body(rack)
    }

    @Test func outputsAndStatusAreTheProgramsOwn() throws {
        try withRack(attach: { processor in
            guard processor.welcome() else { return }
            processor.send(.standardOutput, "out")
            processor.send(.standardError, "err")
            processor.send(.standardOutput, "put\n")
            processor.end(status: 7)
        }) { rack in
            let child = try rack.legoctl([
                "run", "--env", "A=b=c", "--cwd", "/srv", "--name", "n", "--excache", "64MiB", "--", "sh", "--", "-x",
            ])
            let result = child.finish()
            #expect(result.end == .exited(7))
            #expect(String(decoding: result.output, as: UTF8.self) == "output\n")
            #expect(result.errors == "err")
            let request = try #require(rack.requests.first)
            #expect(request.arguments == ["sh", "--", "-x"])
            #expect(request.environment.contains("A=b=c") && request.environment.contains("LEGO_RACK=\(rack.address)"))
            #expect(request.workingDirectory == "/srv" && request.name == "n")
            #expect(request.excacheBytes == 64 << 20 && !request.isDetached)
        }
    }

    /// Input arrives complete, in order, with its end, and never more than was granted.
    @Test func inputFollowsTheCredit() throws {
        let received = Mutex<(bytes: [UInt8], ended: Bool, exceeded: Bool)>(([], false, false))
        try withRack(attach: { processor in
            guard processor.welcome() else { return }
            var credit = AttachFrame.inputCredit_bytes
            while let frame = processor.frame(), frame.kind == .standardInput {
                if frame.payload.isEmpty {
                    received.withLock { $0.ended = true }
                    break
                }
                credit -= frame.payload.count
                received.withLock { state in
                    state.bytes += frame.payload
                    if credit < 0 { state.exceeded = true }
                }
                if credit == 0 {
                    credit = 1000
                    processor.send(.inputCredit, withUnsafeBytes(of: UInt32(1000).littleEndian) { Array($0) })
                }
            }
            processor.end(status: 0)
        }) { rack in
            let child = try rack.legoctl(["run", "--", "cat"])
            let input = (0..<150_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
            let descriptor = child.input
            let writer = try KernelThread(name: "test-input") {
                var sent = 0
                while sent < input.count {
                    let count = input.withUnsafeBytes { write(descriptor, $0.baseAddress! + sent, input.count - sent) }
                    if count <= 0 { return }
                    sent += count
                }
            }
            writer.join()
            child.closeInput()
            #expect(child.finish().end == .exited(0))
            received.withLock { state in
                #expect(state.bytes == input)
                #expect(state.ended && !state.exceeded)
            }
        }
    }

    /// A reader that does not read stops neither signals nor, in the end, the output.
    @Test func signalsPassASlowReader() throws {
        let signals = Mutex<[UInt8]>([])
        let block = [UInt8](repeating: 65, count: 60_000)
        try withRack(attach: { processor in
            guard processor.welcome() else { return }
            // More than the pipe, the buffers of legoctl and those of the sockets hold.
            let writer = try? KernelThread(name: "test-output") {
                for _ in 0..<300 { processor.send(.standardOutput, block) }
            }
            guard let frame = processor.frame(), frame.kind == .signal else { return }
            signals.withLock { $0 = frame.payload }
            writer?.join()
            processor.end(signal: UInt32(SIGINT))
        }) { rack in
            let child = try rack.legoctl(["run", "--", "yes"])
            // Something has arrived: the pump runs. Then the pipe fills up.
            var watched = pollfd(fd: child.output, events: Int16(POLLIN), revents: 0)
            #expect(poll(&watched, 1, 20_000) == 1)
            child.send(SIGINT)
            var isSeen = false
            let deadline = Deadline.after(.seconds(20))
            while !isSeen && !deadline.hasPassed {
                isSeen = signals.withLock { $0 == [UInt8(SIGINT)] }
                var none = pollfd(fd: -1, events: 0, revents: 0)
                poll(&none, 1, 5)
            }
            #expect(isSeen)
            let result = child.finish()
            #expect(result.end == .signaled(SIGINT, dumpedCore: false))
            #expect(result.output.count == 300 * block.count)
            #expect(result.errors == "")
        }
    }

    @Test(arguments: [SIGTERM, SIGSEGV, SIGQUIT, SIGKILL, SIGPIPE])
    func theEndBySignalIsRepeated(_ signal: Int32) throws {
        try withRack(attach: { processor in
            if processor.welcome() { processor.end(signal: UInt32(signal)) }
        }) { rack in
            let result = try rack.legoctl(["run", "--", "sh"]).finish()
            #expect(result.end == .signaled(signal, dumpedCore: false))
            #expect(result.errors == "")
        }
    }

    @Test func aSignalThatEndsNothingBecomesAStatus() throws {
        try withRack(attach: { processor in
            if processor.welcome() { processor.end(signal: UInt32(SIGCHLD)) }
        }) { rack in
            let result = try rack.legoctl(["run", "--", "sh"]).finish()
            #expect(result.end == .exited(128 + SIGCHLD))
        }
    }

    @Test func whatTheRackEndsIsExplained() throws {
        let cases: [(ProcessorManagerReport.State, Int32, UInt32, String, ChildProcess.End, String)] = [
            (
                .lost, -1, 9, "memory component memory1 was lost", .exited(125),
                "legoctl: program 3 (python3) was ended: memory component memory1 was lost\n"
            ),
            (
                .exited, -1, 9, "no memory component has room", .signaled(SIGKILL, dumpedCore: false),
                "legoctl: program 3 (python3) was ended: no memory component has room\n"
            ),
            (
                .exited, 127, 0, "/usr/bin/nope: no such program", .exited(127),
                "legoctl: /usr/bin/nope: no such program\n"
            ),
        ]
        for (state, status, signal, reason, end, line) in cases {
            try withRack(attach: { processor in
                if processor.welcome() { processor.end(state, status: status, signal: signal, reason: reason) }
            }) { rack in
                let result = try rack.legoctl(["run", "--", "/usr/bin/python3"]).finish()
                #expect(result.end == end)
                #expect(result.errors == line)
            }
        }
    }

    @Test func aProcessorThatDiesLeavesTheManagersReason() throws {
        let ended = FakeRack.status(.lost, reason: "processor component processor0 was lost")
        try withRack(ended: ended, attach: { processor in _ = processor.welcome() }) { rack in
            let result = try rack.legoctl(["run", "--", "sh"]).finish()
            #expect(result.end == .exited(125))
            #expect(result.errors == "legoctl: program 3 (sh) was ended: processor component processor0 was lost\n")
        }
    }

    @Test func aRefusalIsPassedOn() throws {
        try withRack(attach: { processor in
            _ = processor.frame()
            processor.send(.refused, "another client is attached")
        }) { rack in
            let result = try rack.legoctl(["run", "--", "sh"]).finish()
            #expect(result.end == .exited(125))
            #expect(result.errors == "legoctl: another client is attached\n")
        }
    }

    @Test(
        arguments: [[0xff, 0, 0, 0, 0], [5, 0xff, 0xff, 0xff, 0xff], [1, 0, 0, 0, 0], [8, 1, 0, 0, 0, 7]] as [[UInt8]])
    func bytesThatAreNoFrameEndTheCommand(_ bytes: [UInt8]) throws {
        try withRack(attach: { processor in
            guard processor.welcome() else { return }
            processor.connection.write(bytes)
            while processor.frame() != nil {}
        }) { rack in
            let result = try rack.legoctl(["run", "--", "sh"]).finish()
            #expect(result.end == .exited(1))
            #expect(result.errors.hasPrefix("legoctl: the processor sends something that is not understood"))
            #expect(result.errors.split(separator: "\n").count == 1)
        }
    }

    @Test func aReaderThatLeavesIsToldToTheProgram() throws {
        let told = Mutex<[UInt8]>([])
        try withRack(attach: { processor in
            guard processor.welcome() else { return }
            processor.send(.standardOutput, "y\n")
            while let frame = processor.frame() {
                if frame.kind == .closed {
                    told.withLock { $0 = frame.payload }
                    break
                }
            }
            processor.end(signal: UInt32(SIGPIPE))
        }) { rack in
            let child = try rack.legoctl(["run", "--", "yes"])
            var bytes = [UInt8](repeating: 0, count: 2)
            #expect(read(child.output, &bytes, 2) == 2)
            child.closeOutput()
            #expect(child.finish().end == .signaled(SIGPIPE, dumpedCore: false))
            #expect(told.withLock { $0 } == [1])
        }
    }

    @Test func theStopKeyStopsBothAndBothContinue() throws {
        let signals = Mutex<[UInt8]>([])
        try withRack(attach: { processor in
            guard processor.welcome() else { return }
            processor.send(.standardOutput, "ready\n")
            while let frame = processor.frame() {
                if frame.kind == .signal { signals.withLock { $0 += frame.payload } }
                if frame.kind == .signal && frame.payload == [UInt8(SIGCONT)] { break }
            }
            processor.end(status: 5)
        }) { rack in
            let child = try rack.legoctl(["run", "--", "sh"])
            var bytes = [UInt8](repeating: 0, count: 6)
            #expect(read(child.output, &bytes, 6) == 6)
            child.send(SIGTSTP)
            #expect(child.waitForStop() == SIGTSTP)
            child.send(SIGCONT)
            #expect(child.finish().end == .exited(5))
            #expect(signals.withLock { $0 } == [UInt8(SIGTSTP), UInt8(SIGCONT)])
        }
    }

    @Test func signalsThatTheCallerIgnoresStayIgnored() throws {
        let signals = Mutex<[UInt8]>([])
        try withRack(attach: { processor in
            guard processor.welcome() else { return }
            processor.send(.standardOutput, "ready\n")
            while let frame = processor.frame() {
                if frame.kind == .signal { signals.withLock { $0 += frame.payload } }
                if frame.kind == .signal && frame.payload == [UInt8(SIGUSR1)] { break }
            }
            processor.end(status: 0)
        }) { rack in
            let child = try ChildProcess(
                "sh", ["-c", "trap '' HUP; exec \(ChildProcess.legoctl) run -- sh"],
                environment: ["LEGO_RACK": rack.address])
            var bytes = [UInt8](repeating: 0, count: 6)
            #expect(read(child.output, &bytes, 6) == 6)
            child.send(SIGHUP)
            child.send(SIGUSR1)
            #expect(child.finish().end == .exited(0))
            #expect(signals.withLock { $0 } == [UInt8(SIGUSR1)])
        }
    }

    @Test func descriptorsThatTheCallerClosedDoNoHarm() throws {
        try withRack(attach: { processor in
            guard processor.welcome() else { return }
            processor.send(.standardOutput, "lost")
            // The end of the input that is not there.
            guard let frame = processor.frame(), frame.kind == .standardInput, frame.payload.isEmpty else { return }
            processor.end(status: 4)
        }) { rack in
            let child = try ChildProcess(
                "sh", ["-c", "exec \(ChildProcess.legoctl) run -- sh <&- >&-"], environment: ["LEGO_RACK": rack.address]
            )
            #expect(child.finish().end == .exited(4))
        }
    }

    @Test func detachedProgramsAndTheirLogs() throws {
        try withRack(attach: { processor in
            guard processor.welcome(mode: .logs) else { return }
            processor.send(.standardOutput, "logged\n")
        }) { rack in
            let detached = try rack.legoctl(["run", "--detach", "--", "sh"]).finish()
            #expect(detached.end == .exited(0))
            #expect(String(decoding: detached.output, as: UTF8.self) == "3\n")
            #expect(rack.requests.first?.isDetached == true)
            let logs = try rack.legoctl(["logs", "3"]).finish()
            #expect(logs.end == .exited(0))
            #expect(String(decoding: logs.output, as: UTF8.self) == "logged\n")
        }
    }

    @Test func waitEndsAsTheProgramDid() throws {
        let cases: [(ProgramStatus, ChildProcess.End, String)] = [
            (FakeRack.status(.exited, exitStatus: 3), .exited(3), ""),
            (FakeRack.status(.exited, signal: 15), .signaled(SIGTERM, dumpedCore: false), ""),
            (
                FakeRack.status(.lost, reason: "memory0 was lost"), .exited(125),
                "legoctl: program 3 (sh) was ended: memory0 was lost\n"
            ),
        ]
        for (status, end, errors) in cases {
            try withRack(ended: status, attach: { _ in }) { rack in
                let result = try rack.legoctl(["wait", "3"]).finish()
                #expect(result.end == end)
                #expect(result.errors == errors)
            }
        }
    }

    @Test func wrongCommandLines() throws {
        let cases: [([String], String)] = [
            (["run"], "legoctl: no program is named; write it after --, as in: legoctl run -- /bin/echo hello\n"),
            (["run", "--foo", "x"], "legoctl: unknown option '--foo' (see legoctl run --help)\n"),
            (
                ["run", "--excache", "many", "--", "x"],
                "legoctl: --excache is \"many\"; allowed: a size such as 64MiB, at least 1MiB\n"
            ),
            (["run", "--env", "A", "--", "x"], "legoctl: --env is \"A\"; allowed: NAME=VALUE\n"),
            (["run", "--cwd", "here", "--", "x"], "legoctl: --cwd is \"here\"; allowed: an absolute path\n"),
            (["wait", "0"], "legoctl: The value '0' is invalid for '<id>' (see legoctl wait --help)\n"),
            (["rack", "up", "--memories", "0"], "legoctl: --memories is \"0\"; allowed: a number from 1 to 16\n"),
            (["logs"], "legoctl: Missing expected argument '<id>' (see legoctl logs --help)\n"),
            (["stats", "--interval", "1s"], "legoctl: --interval is of use with --watch only\n"),
            (
                ["exec", "here", "--", "x"],
                "legoctl: \"here\" is no program's number; 'legoctl ps' lists them (see legoctl exec --help)\n"
            ),
            (
                ["exec", "3"], "legoctl: no command is named; write it behind --, as in: legoctl exec 3 -- /bin/ps\n"
            ),
            (
                ["run", "--cpus", "1-", "--", "x"],
                "legoctl: --cpus is \"1-\"; allowed: numbers and ranges such as 0,2-3\n"
            ),
        ]
        for (arguments, line) in cases {
            let result = try ChildProcess(
                ChildProcess.legoctl, arguments, environment: ["LEGO_RACK": "127.0.0.1:1"]
            ).finish()
            #expect(result.end == .exited(64), "\(arguments)")
            #expect(result.errors == line)
        }
    }

    @Test func aManagerThatIsDownIsNamed() throws {
        let line =
            "legoctl: cannot reach the manager at 127.0.0.1:1: connection refused; start it with 'legoctl component start "
            + "manager', or a rack with 'legoctl rack up'\n"
        for arguments in [["ps"], ["--rack", "127.0.0.1:1", "status"], ["run", "--rack", "127.0.0.1:1", "--", "x"]] {
            let result = try ChildProcess(
                ChildProcess.legoctl, arguments,
                environment: arguments.contains("--rack") ? ["LEGO_RACK": "127.0.0.1:2"] : ["LEGO_RACK": "127.0.0.1:1"]
            ).finish()
            #expect(result.end == .exited(1))
            #expect(result.errors == line)
        }
    }
}
