import Glibc
import Kernel
import Testing

@testable import ProcessorService

/// What a program finds in its sandbox, and what it leaves.
@Suite(.serialized) struct SandboxTests {
    @Test func exitStatusReachesTheDaemon() throws {
        #expect(try SandboxHarness.run(["sh", "-c", "exit 7"]).exitStatus == 7)
        #expect(try SandboxHarness.run(["/bin/true"]).exitStatus == 0)
    }

    @Test func deadlySignalReachesTheDaemon() throws {
        #expect(try SandboxHarness.run(["sh", "-c", "kill -TERM $$"]).signal == SIGTERM)
        #expect(try SandboxHarness.run(["sh", "-c", "kill -SEGV $$"]).signal == SIGSEGV)
    }

    @Test func streamsCarryBytesBothWays() throws {
        let text = String(repeating: "line of input\n", count: 20000)
        // The program drains its input before it answers, so that this test's writes cannot wait for its reads.
        let outcome = try SandboxHarness.run(
            ["sh", "-c", "cat > /tmp/kept; echo note >&2; sort -u /tmp/kept; wc -l < /tmp/kept"], input: text)
        #expect(outcome.output == "line of input\n20000\n")
        #expect(outcome.error == "note\n")
        #expect(outcome.exitStatus == 0)
    }

    @Test func programIsAloneInItsNamespaces() throws {
        let script = "echo $$; cat /proc/1/comm; ls /proc | grep -c '^[0-9]'; readlink /proc/self/ns/*"
        let lines = try SandboxHarness.run(["sh", "-c", script]).output.split(separator: "\n")
        #expect(lines[0] == "2")
        #expect(lines[1] == "lego-init")
        // init, sh, ls and grep.
        #expect(lines[2] == "4")
        let own = Set(["mnt", "pid", "ipc", "net", "user"].map { Self.namespace($0) })
        let theirs = Set(lines.dropFirst(3).map(String.init))
        #expect(own.subtracting(theirs).map { $0.prefix(3) }.sorted() == ["ipc", "mnt", "pid"])
    }

    private static func namespace(_ kind: String) -> String {
        var buffer = [CChar](repeating: 0, count: 128)
        let count = readlink("/proc/self/ns/\(kind)", &buffer, buffer.count)
        return String(decoding: buffer.prefix(max(0, count)).map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    @Test func onlyTheProgramsMountsAreVisible() throws {
        let script = "awk '{print $5}' /proc/self/mountinfo | sort | tr '\\n' ' '"
        let outcome = try SandboxHarness.run(["sh", "-c", script])
        // The first /tmp and the proc(5) in it lie below the second: `mount_whole_proc` in lego-sandbox/root.c.
        #expect(outcome.output == "/ /dev /dev/mqueue /dev/pts /dev/shm /proc /sys /tmp /tmp /tmp/proc ")
    }

    @Test func programRunsAsItsUserWithoutRights() throws {
        let script =
            "id -u; id -g; id -G; ulimit -c; "
            + "grep -E '^(CapPrm|CapEff|CapAmb|NoNewPrivs|SigBlk|SigIgn):' /proc/self/status"
        let outcome = try SandboxHarness.run(["sh", "-c", script]) { plan in
            plan.user = 1234
            plan.group = 2345
            plan.groups = [2345, 3456]
        }
        #expect(
            outcome.output.split(separator: "\n") == [
                "1234", "2345", "2345 3456", "0", "SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000",
                "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapAmb:\t0000000000000000",
                "NoNewPrivs:\t1",
            ])
    }

    @Test func rootProgramKeepsNoRightsOverTheHost() throws {
        let script = """
            id -u; grep CapEff /proc/self/status
            for f in /proc/sys/kernel/hostname /proc/sysrq-trigger; do echo x > $f || echo refused; done 2>/dev/null
            mknod /tmp/disk b 8 0 2>/dev/null || echo no device; mount -t tmpfs none /mnt 2>/dev/null || echo no mount
            chown 12:34 /tmp && stat -c %u:%g /tmp
            """
        let outcome = try SandboxHarness.run(["sh", "-c", script]) { plan in
            plan.user = 0
            plan.group = 0
        }
        #expect(
            outcome.output.split(separator: "\n") == [
                "0", "CapEff:\t00000000a00425fb", "refused", "refused", "no device", "no mount", "12:34",
            ])
    }

    @Test func devicesWorkForAnyUser() throws {
        let script = """
            echo x > /dev/null; head -c 3 /dev/zero | od -An -tx1; head -c 64 /dev/urandom | wc -c
            echo x 2>&1 > /dev/full | grep -c 'No space'; echo out > /dev/stdout; echo err > /dev/stderr
            python3 -c 'import os, pty; a, b = pty.openpty(); os.write(a, b"typed\\n"); print(os.read(b, 5).decode())'
            echo shared > /dev/shm/x && cat /dev/shm/x; ls -l /dev/fd/0 > /dev/null && echo fd
            """
        let outcome = try SandboxHarness.run(["bash", "-c", script])
        #expect(outcome.output == " 00 00 00\n64\n1\nout\ntyped\nshared\nfd\n")
        #expect(outcome.error.contains("err\n"))
    }

    @Test func temporaryDirectoryIsPrivate() throws {
        let name = "lego-test-\(getpid())"
        let outcome = try SandboxHarness.run(["sh", "-c", "echo mine > /tmp/\(name) && ls -A /tmp; stat -c %a /tmp"])
        #expect(outcome.output == "\(name)\n1777\n")
        #expect(access("/tmp/\(name)", F_OK) != 0)
    }

    @Test func temporaryDirectoryIsBounded() throws {
        let outcome = try SandboxHarness.run(["sh", "-c", "head -c 2000000 /dev/zero > /tmp/big; stat -c %s /tmp/big"])
        {
            $0.temporaryBytes = 1 << 20
        }
        #expect(outcome.output == "1048576\n")
        #expect(outcome.error.contains("No space left"))
    }

    @Test func noDescriptorOfTheRackLeaksIn() throws {
        // 3 is the directory that ls reads.
        #expect(try SandboxHarness.run(["ls", "/proc/self/fd"]).output == "0\n1\n2\n3\n")
    }

    @Test func environmentAndArgumentsArriveWhole() throws {
        let long = String(repeating: "v", count: 100_000)
        let outcome = try SandboxHarness.run([
            "sh", "-c", "echo \"$1|$2|$3\" ${#LONG} $EMPTY-; pwd", "sh", "a b", "", "ü",
        ]) {
            plan in
            plan.environment += (0..<12).map { "LONG\($0 == 0 ? "" : String($0))=\(long)" } + ["EMPTY="]
            plan.workingDirectory = "/usr/share"
        }
        #expect(outcome.output == "a b||ü 100000 -\n/usr/share\n")
    }

    @Test func orphansAreReapedAndDieWithTheProgram() throws {
        let script =
            "(sleep 1000 & echo $! > /tmp/pid); (true &); sleep 0.1; ps -o stat= -e | grep -c Z; exec sh -c 'exit 3'"
        let outcome = try SandboxHarness.run(["sh", "-c", script])
        #expect(outcome.output == "0\n")
        #expect(outcome.exitStatus == 3)
    }

    @Test func orphanedWriterDoesNotHoldTheEnd() throws {
        // The orphan holds standard output; its death, not its end, closes it.
        #expect(try SandboxHarness.run(["sh", "-c", "sleep 1000 & echo started"]).output == "started\n")
    }

    @Test func programWaitsBeforeItsFirstInstruction() throws {
        let running = try RunningSandbox(SandboxHarness.plan(["sh", "-c", "echo ran"]))
        let process = running.sandbox.program
        #expect(readText("/proc/\(process)/status").contains("State:\tt (tracing stop)"))
        #expect(readText("/proc/\(process)/comm") == "sh\n")
        #expect(running.sandbox.release())
        #expect(try running.finish().output == "ran\n")
    }

    @Test func programThatIsNeverReleasedVanishes() throws {
        let process: Int32
        do {
            let running = try RunningSandbox(SandboxHarness.plan(["sh", "-c", "echo ran"]))
            process = running.sandbox.program
        }
        #expect(!isAlive(process))
    }

    @Test func readerThatLeavesGivesSIGPIPE() throws {
        let pipe = try Pipe()
        let null = Descriptor(taking: open("/dev/null", O_RDWR | O_CLOEXEC))
        let streams = StandardStreams(
            input: try null.duplicate(), output: try pipe.writing.duplicate(), error: try null.duplicate())
        let sandbox = try Sandbox.launch(
            executable: SandboxHarness.executable, plan: SandboxHarness.plan(["yes"]), streams: streams,
            limit: .seconds(20))
        try pipe.keepReading().close()
        #expect(sandbox.release())
        #expect(eventually { sandbox.nextEnd() == .program(status: SIGPIPE) })
        sandbox.reap()
    }
}
