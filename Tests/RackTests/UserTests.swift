import Foundation
import Glibc
import Kernel
import Testing

/// Whom programs run as: the user who called, also behind sudo; nobody for root; root for root that asks for it.
@Suite(.serialized)
struct UserTests {
    private static let name = "lego-tester"
    private static let number = 47110
    private static let group = 47111
    private static let extraGroup = 47112

    /// A rack whose host knows a user of the test's own. Its daemons see copies of the user database; nothing of the
    /// machine's changes.
    private func withUser(_ body: (Rack) throws -> Void) throws {
        let directory = try Rack.makeDirectory()
        defer { _ = try? Command("rm", ["-rf", directory]).run() }
        let users = try String(contentsOfFile: "/etc/passwd", encoding: .utf8)
        let groups = try String(contentsOfFile: "/etc/group", encoding: .utf8)
        let user = "\(Self.name):x:\(Self.number):\(Self.group)::/home/\(Self.name):/bin/sh\n"
        let own = "\(Self.name):x:\(Self.group):\nlego-extra:x:\(Self.extraGroup):\(Self.name)\n"
        try (users + user).write(toFile: directory + "/passwd", atomically: false, encoding: .utf8)
        try (groups + own).write(toFile: directory + "/group", atomically: false, encoding: .utf8)
        let script =
            "mount --bind \(directory)/passwd /etc/passwd; mount --bind \(directory)/group /etc/group; exec \"$@\""
        try Rack.with(startedBy: ["unshare", "-m", "sh", "-c", script, "sh"]) { try body($0) }
    }

    private static let identity = "echo $(id -u) $(id -g) $(id -G) $HOME $USER $LOGNAME"

    /// As sudo(8) sets it.
    private static let sudo = [
        "SUDO_USER": name, "SUDO_UID": "\(number)", "SUDO_GID": "\(group)", "SUDO_COMMAND": "/usr/bin/legoctl",
        "HOME": "/root", "USER": "root", "LOGNAME": "root",
    ]

    @Test func underSudoTheCallerOfSudo() throws {
        try withUser { rack in
            let expected =
                "\(Self.number) \(Self.group) \(Self.group) \(Self.extraGroup) /home/\(Self.name) \(Self.name) \(Self.name)\n"
            let words = ["run", "--", "/bin/sh", "-c", Self.identity]
            let result = try rack.control(words, environment: Self.sudo)
            #expect(result.text == expected)
            #expect(result.errors.isEmpty)
            // A user without a name in the environment is found by number.
            var onlyNumber = Self.sudo
            onlyNumber["SUDO_USER"] = ""
            #expect(try rack.control(words, environment: onlyNumber).text == expected)

            let file = "/var/tmp/lego-owned"
            let made = try rack.control(
                ["run", "--", "/bin/sh", "-c", "echo x > \(file) && stat -c '%u %g' \(file)"], environment: Self.sudo)
            #expect(made.text == "\(Self.number) \(Self.group)\n", "\(made.errors)")
            // Root that calls sudo is root.
            let root = try rack.control(
                ["run", "--", "/usr/bin/id", "-un"],
                environment: ["SUDO_USER": "root", "SUDO_UID": "0", "SUDO_GID": "0"])
            #expect(root.text == "nobody\n")
            let unknown = try rack.control(
                ["run", "--", "/bin/true"], environment: ["SUDO_USER": "no-such-user", "SUDO_UID": "47119"])
            #expect(unknown.status == 126)
            #expect(unknown.errors.split(separator: "\n").count == 1, "\(unknown.errors)")
        }
    }

    @Test func rootIsNobodyUnlessItAsks() throws {
        try Rack.with { rack in
            let plain = try rack.run([], ["/usr/bin/id", "-un"])
            #expect(plain.text == "nobody\n")
            #expect(plain.errors == "legoctl: submitted by root: runs as nobody (use --user root to run it as root)\n")
            let named = try rack.run(["--user", "nobody"], ["/usr/bin/id", "-un"])
            #expect(named.text == "nobody\n" && named.errors.isEmpty)
            let root = try rack.run(["--user", "root"], ["/usr/bin/id", "-un"])
            #expect(root.text == "root\n" && root.errors.isEmpty)
            #expect(try rack.programs().map(\.user) == ["nobody", "nobody", "root"])
        }
    }

    /// A user who is not root: themselves, never another, and master of their own programs only.
    @Test func othersAreThemselves() throws {
        try withUser { rack in
            let become = [
                "--reuid=\(Self.number)", "--regid=\(Self.group)", "--groups=\(Self.group),\(Self.extraGroup)",
                Rack.legoctl,
            ]
            func control(_ arguments: [String]) throws -> Command.Result {
                try Command("setpriv", become + arguments, environment: ["LEGO_RACK": rack.address]).run()
            }
            let own = try control(["run", "--", "/bin/sh", "-c", "id -u; id -G"])
            #expect(own.text == "\(Self.number)\n\(Self.group) \(Self.extraGroup)\n", "\(own.errors)")
            #expect(own.errors.isEmpty)
            // sudo's variables mean nothing when nobody has used it.
            let claimed = try Command(
                "setpriv", become + ["run", "--", "/usr/bin/id", "-u"],
                environment: ["LEGO_RACK": rack.address, "SUDO_USER": "root", "SUDO_UID": "0"]
            ).run()
            #expect(claimed.text == "\(Self.number)\n")

            let foreign = try rack.detach([], ["/bin/sleep", "60"])
            for words in [
                ["run", "--user", "root", "--", "/bin/true"], ["run", "--user", "nobody", "--", "/bin/true"],
                ["kill", "\(foreign)"], ["logs", "\(foreign)"], ["component", "kill", "memory0"],
                ["rack", "down", "--state", rack.directory + "/state"],
            ] {
                let refused = try control(words)
                #expect(refused.status != 0, "\(words)")
                #expect(refused.errors.split(separator: "\n").count == 1, "\(words): \(refused.errors)")
            }
            #expect(try control(["status"]).status == 0)
            #expect(try rack.control(["kill", "-s", "KILL", "\(foreign)"]).status == 0)
        }
    }
}
