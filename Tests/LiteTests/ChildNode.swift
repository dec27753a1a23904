import CLinux
import Fabric
import Glibc
import Kernel
import Testing
import Wire

@testable import Lite

/// A node in another process, which a test can kill at any moment: this test program once more, running only `childNode`. It ends
/// with its standard input, and after a minute whatever happens.
final class ChildNode {
    enum Role: String {
        /// Serves the test functions; the word at offset 0 of its pool counts the calls that block.
        case serve
        /// Calls and writes to the parent until it is killed.
        case hammer
    }
    static let roleKey = "LEGO_LITE_TEST_CHILD"
    static let parentKey = "LEGO_LITE_TEST_PARENT"
    private static let lifetime_s: UInt32 = 60

    private(set) var process: pid_t = 0
    let address: FabricAddress
    private let input: Int32

    /// Starts the process and waits for the address of its node.
    init(_ role: Role, parent: FabricAddress? = nil) throws {
        var toChild: [Int32] = [0, 0]
        var fromChild: [Int32] = [0, 0]
        if pipe(&toChild) < 0 || pipe(&fromChild) < 0 { throw KernelError("pipe") }
        for descriptor in toChild + fromChild { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, toChild[0], 0)
        posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0)
        posix_spawn_file_actions_adddup2(&actions, fromChild[1], 3)
        let program = CommandLine.arguments[0]
        let arguments = [program, "--testing-library", "swift-testing", "--no-parallel", "--filter", "childNode"]
        var environment = ["\(Self.roleKey)=\(role.rawValue)", "SWIFT_BACKTRACE=enable=no"]
        if let parent { environment.append("\(Self.parentKey)=\(parent)") }
        for name in ["PATH", "LD_LIBRARY_PATH", "HOME"] {
            if let value = getenv(name) { environment.append("\(name)=\(String(cString: value))") }
        }
        let argv = arguments.map { strdup($0) } + [nil]
        let envp = environment.map { strdup($0) } + [nil]
        defer { for text in argv + envp { free(text) } }
        let result = posix_spawn(&process, "/proc/self/exe", &actions, nil, argv, envp)
        close(toChild[0])
        close(fromChild[1])
        defer { close(fromChild[0]) }
        input = toChild[1]
        if result != 0 { throw KernelError("posix_spawn", result) }
        var line: [UInt8] = []
        var byte: UInt8 = 0
        while read(fromChild[0], &byte, 1) == 1, byte != 10 { line.append(byte) }
        guard let address = FabricAddress(String(decoding: line, as: UTF8.self)) else {
            throw KernelError("the child gave no address", EPROTO)
        }
        self.address = address
    }

    deinit {
        kill()
        close(input)
    }

    /// SIGKILL, and waits for its end.
    func kill() {
        if process == 0 { return }
        Glibc.kill(process, SIGKILL)
        waitpid(process, nil, 0)
        process = 0
    }

    /// The child's side.
    static func run(_ role: Role) throws {
        alarm(lifetime_s)
        let configuration = LiteConfiguration(name: "child", listen: anyPort, poolBytes: 1 << 20)
        let node = try RackNode(device: RackDevice(), configuration: configuration)
        let gate = Gate()
        node.registerTestFunctions(gate: gate)
        node.register(TestFunction.count, requestBytes_max: 8, responseBytes_max: 8, on: .worker) {
            [unowned node] _, _, _ in
            _ = lego_atomic_add_u64(node.pool.baseAddress!.assumingMemoryBound(to: UInt64.self), 1)
            gate.pass(until: .after(.seconds(Int64(lifetime_s))))
            return CallResult(status: .ok)
        }
        try node.start()
        let line = Array("\(node.address)\n".utf8)
        _ = line.withUnsafeBytes { write(3, $0.baseAddress, $0.count) }
        if role == .hammer { try hammer(node) }
        var byte: UInt8 = 0
        while read(0, &byte, 1) > 0 {}
        gate.open()
        node.close()
    }

    private static func hammer(_ node: RackNode) throws {
        guard let text = getenv(parentKey), let parent = FabricAddress(String(cString: text)) else { return }
        let peer = try node.connect(to: parent, until: patience)
        try onThreads(3) { thread in
            while true {
                let status =
                    thread == 0
                    ? node.write(peer, [node.piece(at: 0, 4096, 512 << 10)])
                    : node.call(peer, TestFunction.echoOnWorker, bytes: pattern(thread, 3000)).status
                if status == .peerLost { return }
            }
        }
    }
}

/// The body of a child process; no test where there is none.
@Test(.enabled(if: getenv(ChildNode.roleKey) != nil, "runs as a child"))
func childNode() throws {
    guard let role = getenv(ChildNode.roleKey).flatMap({ ChildNode.Role(rawValue: String(cString: $0)) }) else {
        return
    }
    try ChildNode.run(role)
}
