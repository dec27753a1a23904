import Fabric
import Glibc
import Kernel
import Lite
import Testing
import Wire

/// The life of a daemon as its starter sees it, with the executable of the memory component.
@Suite(.serialized)
struct DaemonTests {
    private static var daemon: String { ChildProcess.products + "/lego-memory" }

    /// A daemon with a readiness socket, as `rack up` starts it: the test keeps the other end.
    private final class Started {
        let child: ChildProcess
        private var socket: Int32
        private let keeper: EventDescriptor

        init(_ arguments: [String]) throws {
            var pair: [Int32] = [0, 0]
            guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &pair) == 0 else {
                throw KernelError("socketpair")
            }
            _ = fcntl(pair[0], F_SETFD, FD_CLOEXEC)
            socket = pair[0]
            defer { close(pair[1]) }
            keeper = try EventDescriptor()
            let number = keeper.raw
            _ = fcntl(number, F_SETFD, 0)
            defer { _ = fcntl(number, F_SETFD, FD_CLOEXEC) }
            child = try ChildProcess(
                DaemonTests.daemon,
                arguments + ["--size", "1MiB", "--ready-fd", "\(pair[1])", "--keep-fd", "\(number)"])
        }

        deinit { hangUp() }

        /// The daemon's line; nil when it says nothing within 20 s.
        func readiness() -> DaemonReadiness? {
            var watched = pollfd(fd: socket, events: Int16(POLLIN), revents: 0)
            guard poll(&watched, 1, 20_000) == 1 else { return nil }
            var bytes = [UInt8](repeating: 0, count: DaemonReadiness.bytes_max)
            let count = recv(socket, &bytes, bytes.count, 0)
            guard count > 0, bytes[count - 1] == 10 else { return nil }
            return DaemonReadiness(line: String(decoding: bytes[..<(count - 1)], as: UTF8.self))
        }

        func keep() { keeper.signal() }

        func hangUp() {
            if socket >= 0 { close(socket) }
            socket = -1
        }
    }

    private func start(_ manager: FakeManager) throws -> Started {
        try Started(["--name", "memory0", "--manager", "\(manager.node.address)"])
    }

    @Test func aKeptDaemonOutlivesItsStarterAndStopsOnTerm() throws {
        let manager = try FakeManager()
        defer { manager.node.close() }
        let started = try start(manager)
        let readiness = started.readiness()
        guard case .ready("memory0", let address, "") = readiness else {
            Issue.record("not ready: \(String(describing: readiness))")
            return
        }
        #expect(FabricAddress(address) != nil)
        started.keep()
        started.hangUp()
        let count = 3
        #expect(manager.waits { $0.heartbeats.count >= count })
        started.child.send(SIGTERM)
        let result = started.child.finish()
        #expect(result.end == .exited(0), "\(result.errors)")
        #expect(result.errors.contains("stopped"))
    }

    @Test func aDaemonWhoseStarterDiesHalfWayStops() throws {
        let manager = try FakeManager()
        defer { manager.node.close() }
        let started = try start(manager)
        #expect(started.readiness() != nil)
        started.hangUp()
        let result = started.child.finish()
        #expect(result.end == .exited(1))
        #expect(result.errors.hasSuffix("lego-memory: the command that started this component ended half-way\n"))
    }

    @Test func onlyTheManagerMayTerminateAComponent() throws {
        let manager = try FakeManager()
        defer { manager.node.close() }
        let started = try start(manager)
        guard case .ready(_, let text, _) = started.readiness(), let address = FabricAddress(text) else {
            Issue.record("not ready")
            return
        }
        started.keep()
        let stranger = try RackNode(
            device: RackDevice(),
            configuration: LiteConfiguration(
                name: "stranger", listen: FabricAddress(host: "127.0.0.1", port: 0), poolBytes: 4096))
        try stranger.start()
        defer { stranger.close() }
        let peer = try stranger.connect(to: address, until: .after(.seconds(5)))
        let refused = stranger.call(
            peer, RackFunction.terminate, ManagerComponentTerminate(), answer: Acknowledgement.self,
            until: .after(.seconds(5)))
        #expect(refused.status == .fenced)
        let own = try manager.node.connect(to: address, until: .after(.seconds(5)))
        _ = manager.node.call(
            own, RackFunction.terminate, ManagerComponentTerminate(), answer: Acknowledgement.self,
            until: .after(.seconds(5)))
        #expect(started.child.finish().end == .signaled(SIGKILL, dumpedCore: false))
    }

    @Test func aPortInUseIsSaidInOneLine() throws {
        let manager = try FakeManager()
        defer { manager.node.close() }
        let address = manager.node.address
        let started = try Started(["--manager", "127.0.0.1:1", "--listen", "\(address)"])
        guard case .failed(let line) = started.readiness() else {
            Issue.record("not failed")
            return
        }
        #expect(line.hasPrefix("cannot listen on \(address): "))
        #expect(line.hasSuffix("Address already in use; choose another address with --listen"))
        let result = started.child.finish()
        #expect(result.end == .exited(1))
        #expect(result.errors == "lego-memory: \(line)\n")
    }

    @Test func wrongArgumentsEndWithOneLine() throws {
        let cases: [([String], Int32, String)] = [
            (
                ["--size", "12 bananas"], 64,
                "lego-memory: --size is \"12 bananas\"; allowed: a size such as 512MiB, at least 1MiB\n"
            ),
            (
                ["--name", "a b"], 64,
                "lego-memory: --name is \"a b\"; allowed: 1 to 64 of the characters a-z A-Z 0-9 . _ -, or \"\"\n"
            ),
            (
                ["--listen", "0.0.0.0:0"], 64,
                "lego-memory: --listen is \"0.0.0.0:0\"; allowed: an address of this host at which the other components reach it, not all addresses at once\n"
            ),
            (["--foo"], 64, "lego-memory: Unknown option '--foo' (see lego-memory --help)\n"),
            (["--config", "/no/such"], 1, "lego-memory: /no/such: No such file or directory; name a readable file\n"),
            (
                ["--ready-fd", "99"], 1,
                "lego-memory: --ready-fd is 99; allowed: the number of an open descriptor from 3 on\n"
            ),
        ]
        for (arguments, status, line) in cases {
            let result = try ChildProcess(Self.daemon, arguments).finish()
            #expect(result.end == .exited(status), "\(arguments)")
            #expect(result.errors == line)
        }
        let help = try ChildProcess(Self.daemon, ["--help"]).finish()
        #expect(help.end == .exited(0) && help.errors == "")
        let text = String(decoding: help.output, as: UTF8.self)
        for flag in ["--config", "--manager", "--name", "--listen", "--log-level", "--size"] {
            #expect(text.contains(flag))
        }
    }

    @Test func readinessLines() {
        let lines: [DaemonReadiness] = [
            .ready(name: "memory0", liteAddress: "127.0.0.1:1", apiAddress: ""), .failed(reason: "no\troom\nat all"),
        ]
        #expect(lines[0].line == "ready\tmemory0\t127.0.0.1:1\t\n")
        #expect(lines[1].line == "failed\tno room at all\n")
        #expect(DaemonReadiness(line: String(lines[0].line.dropLast())) == lines[0])
        for text in ["", "ready", "ready\ta", "failed", "other\tx", "failed\ta\tb"] {
            #expect(DaemonReadiness(line: text) == nil)
        }
    }
}
