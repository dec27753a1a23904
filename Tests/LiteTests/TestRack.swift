import Fabric
import Kernel
import Synchronization
import Testing

@testable import Lite

/// The devices that the scenarios run over.
enum DeviceKind: String, CaseIterable, Sendable, CustomTestStringConvertible {
    case loop
    case sharedMemory
    case tcp
    var testDescription: String { rawValue }
}

/// Nodes over one kind of device; all are closed when the scenario ends.
final class TestRack<Device: RDMADevice> {
    let makeDevice: () throws -> Device
    private(set) var nodes: [LiteNode<Device>] = []
    /// What happened to peers, by the name of the node that lost them.
    let losses = LossLog()

    init(_ makeDevice: @escaping () throws -> Device) { self.makeDevice = makeDevice }

    /// A started node that offers the test functions.
    func node(
        _ name: String = "node", poolBytes: Int = 1 << 20, gate: Gate = Gate(),
        _ change: (inout LiteConfiguration) -> Void = { _ in }, prepare: (LiteNode<Device>) -> Void = { _ in }
    ) throws -> LiteNode<Device> {
        var configuration = LiteConfiguration(name: name, listen: anyPort, poolBytes: poolBytes)
        change(&configuration)
        let node = try LiteNode(device: makeDevice(), configuration: configuration)
        node.registerTestFunctions(gate: gate)
        prepare(node)
        let losses = losses
        node.onPeerLost { losses.add(name, $0) }
        try node.start()
        nodes.append(node)
        return node
    }

    /// Lets go of nodes that were closed.
    func forget(_ name: String) { nodes.removeAll { $0.configuration.name == name } }

    func close() {
        for node in nodes { node.close() }
        nodes = []
    }
}

/// Losses that were reported.
final class LossLog: Sendable {
    private let log = Mutex<[(node: String, peer: LitePeer)]>([])
    func add(_ node: String, _ peer: LitePeer) { log.withLock { $0.append((node, peer)) } }
    func clear() { log.withLock { $0 = [] } }
    func count(at node: String) -> Int { log.withLock { $0.count { $0.node == node } } }
}

/// A test that is written once and runs over every device.
protocol LiteScenario {
    init()
    func run<Device: RDMADevice>(_ rack: TestRack<Device>) throws
}

func run(_ scenario: (some LiteScenario).Type, on kind: DeviceKind) throws {
    func go<Device: RDMADevice>(_ make: @escaping () throws -> Device) throws {
        let rack = TestRack(make)
        defer { rack.close() }
        try scenario.init().run(rack)
    }
    switch kind {
    case .loop:
        let network = LoopNetwork()
        try go { LoopDevice(network) }
    case .sharedMemory: try go { try SoftDevice(configuration: .init(transport: .sharedMemory)) }
    case .tcp: try go { try SoftDevice(configuration: .init(transport: .tcp)) }
    }
}
