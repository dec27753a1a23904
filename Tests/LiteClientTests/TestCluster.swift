import CLinux
import Fabric
import Glibc
import Kernel
import LiteClient
import Logging
import Synchronization
import Testing

@testable import Lite
@testable import LiteService

/// All tests that make nodes: their threads must not starve each other on a small machine.
@Suite(.serialized) enum LiteClientTests {}

/// The addresses of the adapters that the nodes are to be on by turns (`LEGO_TEST_VERBS=ADDRESS,ADDRESS`): their links are
/// then RDMA verbs alone, whatever transport a test names. nil: the emulated device.
let verbsAddresses = getenv("LEGO_TEST_VERBS").map { String(cString: $0).split(separator: ",").map { String($0) } }

/// How long a test waits for what must happen; longer over verbs, whose adapters are emulated on an emulated processor.
var patience: Deadline { .after(.seconds(verbsAddresses == nil ? 60 : 300)) }

/// Nodes with their LITE services in this process; all are stopped with the cluster.
final class TestCluster {
    struct Member {
        let node: RackNode
        let service: LiteService
        let path: String
        var id: UInt64 { node.id.rawValue }
    }
    static let arenaBytes: UInt64 = 16 << 20
    private(set) var members: [Member] = []
    let directory: String

    init(
        nodes: Int = 1, transport: SoftDeviceConfiguration.Transport = .automatic,
        _ change: (inout LiteServiceConfiguration) -> Void = { _ in }
    ) throws {
        directory = try makeDirectory()
        for number in 0..<nodes { try add("node\(number)", transport: transport, change) }
        for member in members {
            #expect(eventually { member.service.memberCount == nodes - 1 }, "the nodes do not find each other")
        }
    }

    func add(
        _ name: String, transport: SoftDeviceConfiguration.Transport = .automatic,
        _ change: (inout LiteServiceConfiguration) -> Void = { _ in }
    ) throws {
        let path = "\(directory)/\(name).sock"
        var configuration = LiteServiceConfiguration(name: name, socketPath: path, arenaBytes: Self.arenaBytes)
        configuration.quarantine = .milliseconds(200)
        // Each knows only its predecessor.
        if let last = members.last { configuration.peers = [last.node.address] }
        var device = HybridDeviceConfiguration(path: transport == .tcp ? .tcp : .automatic)
        var host = "127.0.0.1"
        if let addresses = verbsAddresses {
            host = addresses[members.count % addresses.count]
            configuration.connectTimeout = .seconds(120)
            configuration.nodeTimeout = .seconds(60)
            device = HybridDeviceConfiguration(path: .verbs, address: host)
        }
        change(&configuration)
        var lite = LiteConfiguration(
            name: name, listen: FabricAddress(host: host, port: 0), poolBytes: Int(Self.arenaBytes))
        lite.messageBytes_max = LiteService.messageBytes
        lite.callsPerPeer_max = 16
        lite.queuePairsPerPeer = 4
        lite.reservedQueuePairs = 1
        let node = try RackNode(device: RackDevice(device), configuration: lite)
        var logger = Logger(label: name) { _ in SwiftLogNoOpLogHandler() }
        logger.logLevel = .error
        let service = try LiteService(node: node, configuration: configuration, logger: logger)
        try node.start()
        try service.start()
        members.append(Member(node: node, service: service, path: path))
    }

    /// Stops one node, as its crash would look to the others.
    func lose(_ index: Int) {
        let member = members.remove(at: index)
        // The others see the connections end first.
        member.node.close()
        member.service.stop()
    }

    func join(_ index: Int = 0, _ options: LiteSession.Options = .init()) throws -> LiteSession {
        try LiteSession(path: members[index].path, options: options)
    }

    func close() {
        for member in members {
            member.service.stop()
            member.node.close()
        }
        members = []
        rmdir(directory)
    }
}

/// Runs a body with a cluster and closes it.
func withCluster(
    nodes: Int = 1, transport: SoftDeviceConfiguration.Transport = .automatic,
    _ change: (inout LiteServiceConfiguration) -> Void = { _ in }, _ body: (TestCluster) throws -> Void
) throws {
    let cluster = try TestCluster(nodes: nodes, transport: transport, change)
    defer { cluster.close() }
    try body(cluster)
}

/// Looks again and again until a condition holds; false at the deadline.
func eventually(_ condition: () -> Bool) -> Bool {
    let deadline = patience
    while !condition() {
        if deadline.hasPassed { return false }
        usleep(500)
    }
    return true
}

/// Runs bodies on threads of their own and waits for all of them; what they throw is an issue.
func onThreads(_ count: Int, _ body: @escaping @Sendable (Int) throws -> Void) throws {
    var threads: [KernelThread] = []
    for number in 0..<count {
        threads.append(
            try KernelThread(name: "test\(number)") {
                do { try body(number) } catch { Issue.record("thread \(number): \(error)") }
            })
    }
    for thread in threads { thread.join() }
}

/// Bytes that depend on their place and a seed.
func pattern(_ seed: Int, _ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ seed) } }

extension LiteSession {
    func write(_ region: LiteRegion, at offset: UInt64 = 0, _ bytes: [UInt8]) throws(LiteFailure) {
        let result = bytes.withUnsafeBytes { buffer -> Result<Void, LiteFailure> in
            do throws(LiteFailure) { return .success(try write(region, at: offset, from: buffer)) } catch {
                return .failure(error)
            }
        }
        try result.get()
    }

    func read(_ region: LiteRegion, at offset: UInt64 = 0, count: Int) throws(LiteFailure) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xee, count: count)
        let result = bytes.withUnsafeMutableBytes { buffer -> Result<Void, LiteFailure> in
            do throws(LiteFailure) { return .success(try read(region, at: offset, into: buffer)) } catch {
                return .failure(error)
            }
        }
        try result.get()
        return bytes
    }
}

/// The failure of a body; nil when it succeeds.
func failure(_ body: () throws(LiteFailure) -> Void) -> LiteFailure? {
    do throws(LiteFailure) {
        try body()
        return nil
    } catch { return error }
}

/// A flag between threads.
final class Flag: Sendable {
    private let value = Atomic<Bool>(false)
    var isSet: Bool { value.load(ordering: .acquiring) }
    func set() { value.store(true, ordering: .releasing) }
}
