import Glibc
import Kernel
import Testing

@testable import ProcessorService

/// Programs that cannot be started: each gives one clear line and the exit status that a shell would give.
@Suite(.serialized) struct SandboxFailureTests {
    private func failure(_ arguments: [String], _ change: (inout SandboxPlan) -> Void = { _ in }) -> SandboxFailure? {
        do {
            _ = try SandboxHarness.run(arguments, change: change)
            return nil
        } catch { return error as? SandboxFailure }
    }

    @Test func missingProgram() {
        #expect(
            failure(["/usr/bin/nope"])
                == SandboxFailure("/usr/bin/nope: no such program in the tree of storage0", exitStatus: 127))
        #expect(failure(["nope"]) == SandboxFailure("nope: no such program in the tree of storage0", exitStatus: 127))
        #expect(failure([""]) == SandboxFailure(": no such program in the tree of storage0", exitStatus: 127))
        #expect(failure(["/etc/passwd/x"])?.exitStatus == 127)
    }

    @Test func forbiddenProgram() throws {
        let directory = try TemporaryDirectory()
        let plain = try directory.write("plain", "#!/bin/sh\n")
        let expected = SandboxFailure(
            "\(plain): user 65534 may not execute it, or it is no regular file (tree of storage0)", exitStatus: 126)
        #expect(failure([plain]) == expected)
        // Found by PATH, where a later match that may be executed wins.
        #expect(failure(["plain"]) { $0.environment = ["PATH=/usr/bin:\(directory.path)"] } == expected)
        try directory.write("true", "#!/bin/sh\n")
        #expect(failure(["true"]) { $0.environment = ["PATH=\(directory.path):/usr/bin"] } == nil)
    }

    @Test func directory() {
        #expect(failure(["/usr"]) == SandboxFailure("/usr: is a directory, not a program", exitStatus: 126))
    }

    @Test func notAnExecutableFormat() throws {
        let directory = try TemporaryDirectory()
        for text in ["", "no program at all\n", "\u{7f}ELF"] {
            let path = try directory.write("odd", text, mode: 0o755)
            let reason = "\(path): neither a whole ELF program for this machine nor a script that starts with #!"
            #expect(failure([path]) == SandboxFailure(reason, exitStatus: 126))
        }
    }

    @Test(arguments: [40, 100, 200, 700]) func truncatedELF(bytes: Int) throws {
        let directory = try TemporaryDirectory()
        try Shell.run([
            "/bin/sh", "-c", "head -c \(bytes) /bin/true > \(directory.path)/cut; chmod 755 \(directory.path)/cut",
        ])
        let found = try #require(failure(["\(directory.path)/cut"]))
        #expect(found.exitStatus == 126)
        #expect(found.reason.hasPrefix("\(directory.path)/cut: "))
    }

    @Test func missingInterpreter() throws {
        let directory = try TemporaryDirectory()
        let path = try directory.write("script", "#!/usr/bin/nope\n", mode: 0o755)
        let reason = "\(path): its interpreter or loader does not exist in the tree of storage0"
        #expect(failure([path]) == SandboxFailure(reason, exitStatus: 126))
    }

    @Test func missingWorkingDirectory() {
        let reason =
            "the working directory /nowhere cannot be entered in the tree of storage0: No such file or directory"
        #expect(
            failure(["true"]) { $0.workingDirectory = "/nowhere" }
                == SandboxFailure("\(reason); give another one with --cwd", isWorkingDirectory: true))
        // Entered as the program's user, not as root.
        #expect(failure(["true"]) { $0.workingDirectory = "/root" }?.reason.contains("Permission denied") == true)
    }

    @Test func tooLongArguments() {
        let found = failure(["true", String(repeating: "x", count: 200_000)])
        #expect(found == SandboxFailure("/usr/bin/true: cannot be executed: Argument list too long", exitStatus: 126))
    }

    @Test func zeroByte() {
        #expect(failure(["echo", "a\0b"])?.reason.contains("zero byte") == true)
    }

    @Test func missingTree() {
        let reason = "the tree of storage0 at /nowhere cannot be the program's root: No such file or directory"
        #expect(failure(["true"]) { $0.root = "/nowhere" } == SandboxFailure(reason))
    }

    @Test func treeWithoutMountPoints() {
        // sysfs takes no directory, as a read-only tree takes none.
        let found = failure(["true"]) { $0.root = "/sys" }
        #expect(
            found?.reason.hasPrefix("the tree of storage0 has no directory /proc and it cannot be made there:") == true)
    }

    @Test func treeThatIsBareGetsItsMountPoints() throws {
        let tree = try TemporaryDirectory()
        let source = try tree.write("hello.c", "#include <stdio.h>\nint main(void) { puts(\"hello\"); return 5; }\n")
        try Shell.compile(source, to: "\(tree.path)/hello", with: ["-static"])
        let outcome = try SandboxHarness.run(["/hello"]) { $0.root = tree.path }
        #expect(outcome.output == "hello\n")
        #expect(outcome.exitStatus == 5)
    }

    @Test func badFilter() {
        let found = failure(["true"]) { $0.filter = [UInt8](repeating: 0xff, count: 8) }
        #expect(found?.reason == "the kernel refuses the program's system call filter: Invalid argument")
        #expect(failure(["true"]) { $0.filter = [] }?.reason.contains("start message was refused") == true)
    }

    @Test func missingGuardian() {
        let plan = SandboxHarness.plan(["true"])
        #expect(throws: SandboxFailure.self) {
            let null = Descriptor(taking: open("/dev/null", O_RDWR | O_CLOEXEC))
            let streams = StandardStreams(
                input: try null.duplicate(), output: try null.duplicate(), error: try null.duplicate())
            _ = try Sandbox.launch(
                executable: "/nowhere/lego-sandbox", plan: plan, streams: streams, limit: .seconds(5))
        }
    }
}
