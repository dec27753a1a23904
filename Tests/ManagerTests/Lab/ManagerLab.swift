import Fabric
import Glibc
import Kernel
import Lite
import Logging
import ManagementAPI
import Synchronization
import Testing
import Wire

@testable import ManagerService

/// A manager in this process, on a directory of its own, with manual time and made-up users beside whoever runs the
/// tests.
final class ManagerLab: Sendable {
    /// One life of the manager.
    struct Life: Sendable {
        let node: RackNode
        let service: ManagerService
        let api: String
    }

    let directory: String
    let clock: ManualClock
    private let change: @Sendable (inout ManagerConfiguration) -> Void
    private let life: Mutex<Life>
    private let fakes = Mutex<[FakeComponent]>([])

    static var quiet: Logger { Logger(label: "test") { _ in SwiftLogNoOpLogHandler() } }

    /// Runs `body` with a fresh manager and leaves nothing behind.
    static func run(
        _ change: @escaping @Sendable (inout ManagerConfiguration) -> Void = { _ in },
        _ body: @Sendable (ManagerLab) async throws -> Void
    ) async throws {
        let lab = try await blocking { try ManagerLab(change) }
        do {
            try await body(lab)
        } catch {
            try await blocking { lab.close() }
            throw error
        }
        try await blocking { lab.close() }
    }

    private init(_ change: @escaping @Sendable (inout ManagerConfiguration) -> Void) throws {
        var template = Array("/tmp/lego-manager-test.XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw KernelError("mkdtemp") }
        directory = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
        clock = ManualClock()
        self.change = change
        life = Mutex(try Self.start(directory, clock, change))
    }

    private static func start(
        _ directory: String, _ clock: ManualClock, _ change: (inout ManagerConfiguration) -> Void
    ) throws -> Life {
        var configuration = ManagerConfiguration(stateDirectory: directory + "/state")
        change(&configuration)
        let node = try RackNode(
            device: RackDevice(),
            configuration: LiteConfiguration(
                name: "manager", listen: FabricAddress(host: "127.0.0.1", port: 0), poolBytes: 4096))
        do {
            let service = try ManagerService(
                node: node, configuration: configuration, logger: quiet, users: LabUsers(), now: { clock.now })
            try node.start()
            return Life(node: node, service: service, api: "\(try service.start(ticking: false))")
        } catch {
            node.close()
            throw error
        }
    }

    var node: RackNode { life.withLock { $0.node } }
    var control: RackControl { life.withLock { $0.service.control } }
    var api: String { life.withLock { $0.api } }

    /// Ends the manager and starts another on the same directory.
    func restart() async throws {
        try await blocking { [self] in
            let former = life.withLock { $0 }
            former.service.stop()
            former.node.close()
            let next = try Self.start(directory, clock, change)
            life.withLock { $0 = next }
        }
    }

    /// A client as some user; nil: as whoever runs the tests.
    func client<Value: Sendable>(
        asUser user: UInt32? = nil, _ body: @escaping @Sendable (ManagementClient) throws -> Value
    ) async throws -> Value {
        let api = api
        let run: @Sendable () throws -> Value = { try body(try ManagementClient(address: api)) }
        if let user { return try await blocking(asUser: user, run) }
        return try await blocking(run)
    }

    /// A registered component.
    func component(_ kind: ComponentKind, _ name: String, capacity: UInt64 = 1 << 30) async throws -> FakeComponent {
        try await blocking { [self] in
            let fake = try FakeComponent(kind, name, capacity: capacity)
            fakes.withLock { $0.append(fake) }
            try fake.join(node.address)
            return fake
        }
    }

    private func close() {
        for fake in fakes.withLock({ $0 }) { fake.close() }
        let last = life.withLock { $0 }
        last.service.stop()
        last.node.close()
        for name in ["manager.sqlite", "manager.sqlite-wal", "manager.sqlite-shm", "manager.lock"] {
            unlink("\(directory)/state/\(name)")
        }
        rmdir(directory + "/state")
        #expect(rmdir(directory) == 0, "the manager left something in its directory")
    }
}

/// Made-up users; the one who runs the tests is called `me` unless it is one of them.
struct LabUsers: UserDatabase {
    private var accounts: [UserAccount] {
        let known = FakeUsers().accounts
        return known.contains { $0.userID == geteuid() } ? known : known + [FakeUsers.account("me", geteuid())]
    }
    func user(named name: String) -> UserAccount? { accounts.first { $0.name == name } }
    func user(numbered number: UInt32) -> UserAccount? { accounts.first { $0.userID == number } }
}
