import Foundation
import Glibc
import Kernel
import Testing

/// Daemons on kernels and in containers that lack what they need: a seccomp filter, a preloaded library or a /dev of
/// its own takes it away. Each says so in one line, ends with a failure, and leaves nothing behind.
@Suite(.serialized)
struct RequirementTests {
    /// What is taken away from which daemon, and words of the line that it says.
    struct Lack: Sendable, CustomTestStringConvertible {
        var daemon = "processor"
        var arguments: [String] = []
        var preloadedMask: String?
        var words: [String]
        var testDescription: String { "\(daemon) without \(preloadedMask ?? arguments.joined(separator: " "))" }
    }

    private static let lacks: [Lack] = [
        // USERFAULTFD_IOC_NEW, UFFDIO_API.
        Lack(arguments: ["ioctl", "EPERM", "1", "0xaa00"], words: ["/dev/userfaultfd", "not permitted", "container"]),
        Lack(arguments: ["ioctl", "EINVAL", "1", "0xc018aa3f"], words: ["userfaultfd", "Linux 6.8"]),
        Lack(preloadedMask: "0x1", words: ["write protection", "Linux 6.8"]),
        Lack(preloadedMask: "0x2", words: ["fork events", "Linux 6.8"]),
        Lack(preloadedMask: "0x4", words: ["remap events", "Linux 6.8"]),
        Lack(preloadedMask: "0x100", words: ["thread numbers", "Linux 6.8"]),
        Lack(preloadedMask: "0x4000", words: ["UFFDIO_POISON", "Linux 6.8"]),
        Lack(preloadedMask: "0x10000", words: ["UFFDIO_MOVE", "Linux 6.8"]),
        Lack(preloadedMask: "0x14000", words: ["UFFDIO_POISON", "UFFDIO_MOVE"]),
        Lack(arguments: ["seccomp", "EINVAL"], words: ["seccomp", "WAIT_KILLABLE_RECV", "Linux 6.8"]),
        Lack(arguments: ["pidfd_open", "ENOSYS"], words: ["pidfd_open", "Linux 6.8"]),
        Lack(arguments: ["pidfd_getfd", "EPERM"], words: ["pidfd_getfd", "root"]),
        Lack(arguments: ["unshare", "EPERM"], words: ["mount namespace", "CAP_SYS_ADMIN"]),
        Lack(daemon: "storage", arguments: ["unshare", "EPERM"], words: ["mount namespace", "CAP_SYS_ADMIN"]),
        // An overlay is mounted with MS_NOSUID | MS_NODEV.
        Lack(daemon: "storage", arguments: ["mount", "ENODEV", "3", "6"], words: ["overlayfs", "modprobe"]),
        Lack(daemon: "memory", arguments: ["memfd", "ENOSYS"], words: ["memfd_create", "Linux 6.8"]),
        Lack(daemon: "manager", arguments: ["memfd", "ENOSYS"], words: ["memfd_create", "Linux 6.8"]),
    ]

    private func withDirectory(_ body: (String) throws -> Void) throws {
        let directory = try Rack.makeDirectory()
        defer { _ = try? Command("rm", ["-rf", directory]).run() }
        try body(directory)
        #expect(Rack.leftovers(of: directory) == [])
    }

    private func compile(_ name: String, _ options: [String], into path: String) throws {
        let source = URL(fileURLWithPath: #filePath).deletingLastPathComponent().path + "/Programs/\(name).c"
        let result = try Command("gcc", ["-O2", "-Wall", "-Werror", "-o", path, source] + options).run()
        try #require(result.status == 0, "\(result.errors)")
    }

    private func expectOneLine(_ result: Command.Result, _ words: [String]) {
        #expect(result.status != 0 && result.status < 126 && !result.timedOut, "status \(result.status)")
        #expect(result.text.isEmpty)
        #expect(result.errors.split(separator: "\n").count == 1, "\(result.errors)")
        for word in words { #expect(result.errors.contains(word), "\(word) is not in: \(result.errors)") }
    }

    private func daemon(_ kind: String, state: String) -> [String] {
        var words = [Rack.products + "/lego-\(kind)"]
        if kind != "manager" { words += ["--manager", "127.0.0.1:1"] }
        if kind != "memory" { words += ["--state", state] }
        return words
    }

    @Test(arguments: lacks)
    func aKernelWithoutANeededFeature(_ lack: Lack) throws {
        try withDirectory { directory in
            var words = daemon(lack.daemon, state: directory)
            var environment: [String: String] = [:]
            if let mask = lack.preloadedMask {
                try compile("olduffd", ["-shared", "-fPIC", "-ldl"], into: directory + "/olduffd.so")
                environment = ["LD_PRELOAD": directory + "/olduffd.so", "LEGO_LACKING": mask]
            } else {
                try compile("deny", [], into: directory + "/deny")
                words = [directory + "/deny"] + lack.arguments + ["--"] + words
            }
            let command = Command(words[0], Array(words.dropFirst()), environment: environment)
            expectOneLine(try command.run(within: .seconds(20)), lack.words)
        }
    }

    /// A /dev with nothing but what any program needs, and the devices that are named.
    private func withDevices(_ names: [String], _ words: [String]) -> Command {
        let script = """
            copied=""
            for name in null zero urandom $KEPT; do
                copied="$copied mknod -m 666 /dev/$name c $(stat -c '0x%t 0x%T' /dev/$name);"
            done
            mount -t tmpfs lego-test /dev && eval "$copied" && exec "$@"
            """
        return Command(
            "unshare", ["-m", "sh", "-c", script, "sh"] + words,
            environment: ["KEPT": names.joined(separator: " ")])
    }

    @Test func devicesThatAreNotThere() throws {
        try withDirectory { directory in
            let words = daemon("processor", state: directory)
            expectOneLine(
                try withDevices(["fuse"], words).run(within: .seconds(20)),
                ["/dev/userfaultfd", "No such file or directory", "Linux 6.8"])
            expectOneLine(
                try withDevices(["userfaultfd"], words).run(within: .seconds(20)),
                ["/dev/fuse", "No such file or directory", "modprobe fuse"])
        }
    }

    /// One of several daemons cannot start: none is left.
    @Test func aRackWhoseProcessorCannotStartIsNotLeftHalfWay() throws {
        try withDirectory { directory in
            let words = [Rack.legoctl, "rack", "up", "--state", directory + "/state"]
            let result = try withDevices(["fuse"], words).run(within: .seconds(40))
            expectOneLine(result, ["processor0", "/dev/userfaultfd"])
            #expect(!FileManager.default.fileExists(atPath: directory + "/state/rack.json"))
        }
    }
}
