import Fabric
import Glibc
import Kernel
import Lite
import Logging
import MemoryService
import Synchronization
import Wire

@testable import ProcessorService

/// A processor with its real memory engine, and memory components, in one process: this host's files as the tree.
final class EngineHarness {
    let service: ProcessorService
    let manager = ProgramHarness.Manager()
    private let directory: TemporaryDirectory
    private let node: RackNode
    private let memories: [Memory]

    private struct Memory {
        let node: RackNode
        let service: MemoryService
    }

    init(excacheBytes: UInt64 = 64 << 20, memoryBytes: [Int] = [256 << 20]) throws {
        directory = try TemporaryDirectory()
        let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        node = try Self.makeNode("processor0", bytes: 16 << 20)
        memories = try memoryBytes.enumerated().map { index, bytes in
            let node = try Self.makeNode("memory\(index)", bytes: bytes)
            return Memory(
                node: node,
                service: try MemoryService(node: node, configuration: MemoryServiceConfiguration(), logger: logger))
        }
        let places = memories.enumerated().map { index, memory in
            ManagerProcessorPlace(
                memory: memory.node.id, name: "memory\(index)", liteAddress: memory.node.address.description)
        }
        var configuration = ProcessorConfiguration(
            excacheBytes: excacheBytes, stateDirectory: directory.path,
            attachListen: FabricAddress(host: "127.0.0.1", port: 0))
        configuration.sandboxPath = SandboxHarness.executable
        let manager = manager
        service = try ProcessorService(
            node: node, buffers: PoolAllocator(pool: node.pool), configuration: configuration,
            hooks: ProcessorHooks(
                name: { "processor0" }, isManager: { _ in true },
                tree: { StorageTree(path: "/", name: "storage0") }, report: { manager.take($0) }),
            place: { _, excluded in
                let place = places.first { !excluded.contains($0.memory) }
                return place.map { (.ok, $0) } ?? (.noSpace, nil)
            }, logger: logger)
        node.onPeerLost { [service] in service.componentLost($0.id) }
        for memory in memories { try memory.node.start() }
        try node.start()
        try service.start()
    }

    deinit {
        service.stop()
        node.close()
        for memory in memories { memory.node.close() }
    }

    private static func makeNode(_ name: String, bytes: Int) throws -> RackNode {
        let configuration = LiteConfiguration(
            name: name, listen: FabricAddress(host: "127.0.0.1", port: 0), poolBytes: bytes)
        return try RackNode(device: RackDevice(), configuration: configuration)
    }

    /// Starts a program that must start, and attaches to it.
    func run(_ id: UInt64, _ arguments: [String]) throws -> AttachTestClient {
        let request = ManagerProcessorStart(
            program: ProgramID(rawValue: id), name: "test", arguments: arguments,
            environment: ["PATH=/usr/bin:/bin", "LANG=C"], workingDirectory: "/", user: 65534, group: 65534, groups: [],
            excacheBytes: 0, isDetached: false, attachToken: ProgramHarness.token)
        let (status, answer) = service.start(request)
        if !status.isOK { throw HarnessError.failed(answer?.reason ?? "\(status)") }
        return try AttachTestClient(service.attachAddress, program: id, limit: .seconds(120))
    }

    func loseMemory(_ index: Int) { memories[index].node.close() }
}
