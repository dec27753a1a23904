import Fabric
import Glibc
import Kernel
import Lite
import Synchronization
import Wire

/// A component that does what a test says, on a real node.
final class FakeComponent: Sendable {
    typealias Start = @Sendable (ManagerProcessorStart) -> (Status, ProcessorManagerStarted?)

    let node: RackNode
    let kind: ComponentKind
    let name: String
    private let capacity: UInt64
    private let manager = Mutex<LitePeer?>(nil)

    struct Seen: Sendable {
        var starts: [ManagerProcessorStart] = []
        var signals: [ManagerProcessorSignal] = []
        var releases: [MemoryReleaseOwner] = []
        var terminations = 0
        /// Programs that it knows, for `programStatistics`.
        var programs: [ProgramID: ProgramStatistics] = [:]
    }
    let seen = Mutex(Seen())
    let onStart = Mutex<Start>({ _ in (.ok, ProcessorManagerStarted(reason: "", exitStatus: 0)) })

    private static let limit = Duration.seconds(10)

    init(_ kind: ComponentKind, _ name: String, capacity: UInt64) throws {
        self.kind = kind
        self.name = name
        self.capacity = capacity
        node = try RackNode(
            device: RackDevice(),
            configuration: LiteConfiguration(
                name: name.isEmpty ? "fake" : name, listen: FabricAddress(host: "127.0.0.1", port: 0), poolBytes: 4096))
        node.register(RackFunction.startProgram, ManagerProcessorStart.self, ProcessorManagerStarted.self) {
            [self] _, start in
            seen.withLock {
                $0.starts.append(start)
                $0.programs[start.program] = ProgramStatistics()
            }
            return onStart.withLock { $0 }(start)
        }
        node.register(RackFunction.signalProgram, ManagerProcessorSignal.self, Acknowledgement.self) {
            [self] _, signal in
            seen.withLock { $0.signals.append(signal) }
            return (.ok, Acknowledgement())
        }
        node.register(RackFunction.programStatistics, ManagerProcessorStatistics.self, ProgramStatistics.self) {
            [self] _, request in
            guard let statistics = seen.withLock({ $0.programs[request.program] }) else { return (.notFound, nil) }
            return (.ok, statistics)
        }
        node.register(RackFunction.releaseOwner, MemoryReleaseOwner.self, Acknowledgement.self) { [self] _, release in
            seen.withLock { $0.releases.append(release) }
            return (.ok, Acknowledgement())
        }
        node.register(RackFunction.terminate, ManagerComponentTerminate.self, Acknowledgement.self) { [self] _, _ in
            seen.withLock { $0.terminations += 1 }
            return (.ok, Acknowledgement())
        }
        try node.start()
    }

    /// Connects and registers.
    func join(_ address: FabricAddress) throws {
        let peer = try node.connect(to: address, until: .after(Self.limit))
        manager.withLock { $0 = peer }
        let status = register().status
        if !status.isOK { throw UnexpectedStatus(status: status) }
    }

    func register() -> (status: Status, response: ManagerComponentRegistered?) {
        call(
            RackFunction.registerComponent,
            ComponentManagerRegister(
                kind: kind, name: name, node: node.id, liteAddress: node.address.description,
                attachAddress: kind == .processor ? "127.0.0.1:9" : "", capacityBytes: capacity,
                processID: UInt32(getpid()), hostID: "test"))
    }

    func heartbeat(used: UInt64 = 0) -> Status {
        let answer: (status: Status, response: ManagerComponentHeartbeat?) = call(
            RackFunction.heartbeat, ComponentManagerHeartbeat(node: node.id, usedBytes: used))
        return answer.status
    }

    func place(_ program: UInt64, excluded: [NodeID] = []) -> (status: Status, response: ManagerProcessorPlace?) {
        call(
            RackFunction.placeRegion,
            ProcessorManagerPlace(program: ProgramID(rawValue: program), excluded: excluded))
    }

    func report(
        _ program: UInt64, _ state: ProcessorManagerReport.State, exitStatus: Int32 = -1, signal: UInt32 = 0,
        reason: String = "", memories: [MemoryShare] = []
    ) -> Status {
        var statistics = ProgramStatistics()
        statistics.faults = 5
        statistics.perMemory = memories
        let answer: (status: Status, response: Acknowledgement?) = call(
            RackFunction.programReport,
            ProcessorManagerReport(
                program: ProgramID(rawValue: program), state: state, exitStatus: exitStatus, signal: signal,
                reason: reason, statistics: statistics))
        return answer.status
    }

    func call<Request: WireMessage, Response: WireMessage>(_ function: FunctionID, _ request: Request)
        -> (status: Status, response: Response?)
    {
        guard let peer = manager.withLock({ $0 }) else { return (.peerLost, nil) }
        return node.call(peer, function, request, until: .after(Self.limit))
    }

    /// As death would: the connections are gone at once. Idempotent.
    func close() { node.close() }
}

struct UnexpectedStatus: Error {
    var status: Status
}
