import Fabric
import Glibc
import Kernel
import Lite
import Logging
import Synchronization
import Testing
import Wire

@testable import Daemon

/// A component's membership, with real nodes and a manager that does what the test says.
@Suite(.serialized)
struct ManagerLinkTests {
    private static let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

    /// What a link told its component.
    private final class Observed: Sendable {
        struct State {
            var names: [String] = []
            var memberships: [[RackMember]] = []
            var failure: String?
        }
        let state = Mutex(State())
        let changes = Condition()

        func update(_ change: (inout State) -> Void) {
            state.withLock { change(&$0) }
            changes.notify()
        }
        func waits(for condition: (State) -> Bool) -> Bool {
            changes.wait(within: .seconds(20)) { state.withLock { condition($0) } }
        }
    }

    /// Runs `body` with a component that is joining the manager at `address`.
    private func withComponent(
        of address: FabricAddress, name: String = "memory0", nameLimit: Duration = .seconds(5),
        path: FabricPath = .automatic, reports: @escaping @Sendable () -> [ProcessorManagerReport] = { [] },
        _ body: (ManagerLink, RackNode, Observed) throws -> Void
    ) throws {
        let node = try Self.makeNode(path)
        let observed = Observed()
        var hooks = ComponentHooks()
        hooks.capacityBytes = 4096
        hooks.usedBytes = { 77 }
        hooks.attachAddress = "127.0.0.1:5"
        hooks.registered = { name, _ in observed.update { $0.names.append(name) } }
        hooks.membershipChanged = { members in observed.update { $0.memberships.append(members) } }
        hooks.reports = reports
        let link = try ManagerLink(
            node: node, kind: .memory, name: name, manager: address, hooks: hooks, logger: Self.logger,
            nameLimit: nameLimit, fail: { error in observed.update { $0.failure = error.description } })
        node.onPeerLost { link.peerLost($0) }
        try node.start()
        try link.start()
        defer {
            link.stop()
            node.close()
        }
        try body(link, node, observed)
    }

    private static func makeNode(_ path: FabricPath = .automatic) throws -> RackNode {
        try RackNode(
            device: RackDevice(HybridDeviceConfiguration(path: path)),
            configuration: LiteConfiguration(
                name: "test", listen: FabricAddress(host: "127.0.0.1", port: 0), poolBytes: 4096))
    }

    private func member(_ name: String, _ node: RackNode, _ health: RackMember.Health = .healthy) -> RackMember {
        RackMember(
            kind: .storage, health: health, name: name, node: node.id, liteAddress: node.address.description)
    }

    @Test func aComponentRegistersAndRenewsItsLease() throws {
        let manager = try FakeManager()
        defer { manager.node.close() }
        try withComponent(of: manager.node.address, name: "") { link, node, observed in
            #expect(observed.waits { $0.names == ["chosen0"] })
            #expect(link.name == "chosen0")
            #expect(manager.waits { $0.heartbeats.count >= 3 })
            manager.update { state in
                #expect(state.registrations.count == 1)
                let request = state.registrations[0]
                #expect(request.kind == .memory && request.node == node.id && request.capacityBytes == 4096)
                #expect(request.liteAddress == node.address.description && request.attachAddress == "127.0.0.1:5")
                #expect(request.processID == UInt32(getpid()) && !request.hostID.isEmpty)
                #expect(state.heartbeats.allSatisfy { $0 == ComponentManagerHeartbeat(node: node.id, usedBytes: 77) })
            }
        }
    }

    /// Its two queue pairs take longer than the first attempt may, and the second one begins anew.
    @Test func aSlowConnectionIsGivenMoreTime() throws {
        let manager = try FakeManager(lease: 1000)
        let path = try SlowPath(to: manager.node.address, after: 1200)
        defer {
            manager.node.close()
            path.stop()
        }
        try withComponent(of: path.address, path: .tcp) { _, _, observed in
            #expect(observed.waits { $0.names.count == 1 })
        }
    }

    @Test func changesOfTheMembershipAreToldOnce() throws {
        let manager = try FakeManager()
        defer { manager.node.close() }
        try withComponent(of: manager.node.address) { _, node, observed in
            #expect(observed.waits { $0.memberships == [[]] })
            let members = [member("storage0", node)]
            manager.update { state in
                state.epoch = 2
                state.members = members
            }
            #expect(observed.waits { $0.memberships.count == 2 })
            let beats = Mutex(0)
            manager.update { state in beats.withLock { $0 = state.heartbeats.count } }
            #expect(manager.waits { state in state.heartbeats.count >= beats.withLock { $0 } + 3 })
            observed.update { #expect($0.memberships == [[], members]) }
        }
    }

    @Test func aFencedComponentRegistersAgainUnderItsName() throws {
        let manager = try FakeManager()
        defer { manager.node.close() }
        manager.update { $0.heartbeatStatuses = [.ok, .fenced] }
        try withComponent(of: manager.node.address, name: "") { _, _, observed in
            #expect(observed.waits { $0.names.count == 2 })
            manager.update { #expect($0.registrations.map(\.name) == ["", "chosen0"]) }
        }
    }

    @Test func theManagerMayComeLateAndComeBack() throws {
        // A port that is free for the moment.
        let first = try FakeManager()
        let address = first.node.address
        first.node.close()
        try withComponent(of: address) { link, _, observed in
            let second = try FakeManager(listen: address)
            #expect(observed.waits { $0.names.count == 1 })
            second.node.close()
            // Waits for the manager that comes next.
            let answered = Condition()
            let isAnswered = Mutex(false)
            let caller = try KernelThread(name: "test-caller") {
                let report = ProcessorManagerReport(
                    program: ProgramID(rawValue: 9), state: .running, exitStatus: -1, signal: 0, reason: "",
                    statistics: ProgramStatistics())
                let result = link.report(report, until: .after(.seconds(20)))
                isAnswered.withLock { $0 = result }
                answered.notify()
            }
            let third = try FakeManager(listen: address)
            #expect(answered.wait(within: .seconds(20)) { isAnswered.withLock { $0 } })
            caller.join()
            #expect(third.waits { $0.reports.map(\.program) == [ProgramID(rawValue: 9)] })
            #expect(observed.waits { $0.names.count == 2 })
            third.node.close()
        }
    }

    @Test func aCallWithoutAManagerEndsAtItsDeadlineAndAtTheStop() throws {
        let manager = try FakeManager()
        let address = manager.node.address
        manager.node.close()
        try withComponent(of: address) { link, _, _ in
            let result = link.call(
                RackFunction.placeRegion, ProcessorManagerPlace(program: ProgramID(rawValue: 1), excluded: []),
                answer: ManagerProcessorPlace.self, until: .after(.milliseconds(50)))
            #expect(result.status == .timedOut && result.response == nil)
            let status = Mutex(Status.ok)
            let caller = try KernelThread(name: "test-caller") {
                let result = link.call(
                    RackFunction.placeRegion, ProcessorManagerPlace(program: ProgramID(rawValue: 1), excluded: []),
                    answer: ManagerProcessorPlace.self, until: .after(.seconds(60)))
                status.withLock { $0 = result.status }
            }
            link.stop()
            caller.join()
            #expect(status.withLock { $0 } == .busy)
        }
    }

    @Test func aNameThatStaysTakenEndsTheStart() throws {
        let manager = try FakeManager()
        defer { manager.node.close() }
        manager.update { $0.registrationStatuses = Array(repeating: .exists, count: 1000) }
        try withComponent(of: manager.node.address, nameLimit: .milliseconds(50)) { _, _, observed in
            #expect(observed.waits { $0.failure != nil })
            observed.update {
                #expect(
                    $0.failure == "the name 'memory0' is taken by a living component; choose another with --name")
            }
        }
    }

    @Test func aNameThatBecomesFreeIsTaken() throws {
        let manager = try FakeManager()
        defer { manager.node.close() }
        manager.update { $0.registrationStatuses = [.exists, .exists, .exists] }
        try withComponent(of: manager.node.address) { _, _, observed in
            #expect(observed.waits { $0.names == ["memory0"] })
            manager.update { #expect($0.registrations.count == 4) }
        }
    }

    @Test func reportsGoAlongWithHeartbeats() throws {
        let manager = try FakeManager()
        defer { manager.node.close() }
        let report = ProcessorManagerReport(
            program: ProgramID(rawValue: 4), state: .running, exitStatus: -1, signal: 0, reason: "",
            statistics: ProgramStatistics())
        try withComponent(of: manager.node.address, reports: { [report] }) { _, _, _ in
            #expect(manager.waits { $0.reports.count >= 3 })
            manager.update { #expect($0.reports.allSatisfy { $0 == report }) }
        }
    }

    @Test func aFollowerKeepsToItsComponentThroughRestarts() throws {
        let node = try Self.makeNode()
        let connections = Condition()
        let follower = try PeerFollower(
            node: node, kind: .storage, logger: Self.logger, connected: { connections.notify() })
        node.onPeerLost { peer in
            follower.peerLost(peer)
            connections.notify()
        }
        try node.start()
        try follower.start()
        defer {
            follower.stop()
            node.close()
        }
        #expect(follower.current() == nil && follower.name == nil)
        #expect(follower.current(until: .after(.milliseconds(10))) == nil)
        let first = try Self.makeNode()
        try first.start()
        let other = try Self.makeNode()
        try other.start()
        defer { other.close() }
        follower.membershipChanged([member("storage1", other), member("storage0", first)])
        #expect(connections.wait(within: .seconds(20)) { follower.current()?.id == first.id })
        #expect(follower.name == "storage0")
        first.close()
        #expect(connections.wait(within: .seconds(20)) { follower.current() == nil })
        // Another storage component has other files: it is no replacement.
        follower.membershipChanged([member("storage1", other), member("storage0", first, .lost)])
        #expect(follower.current() == nil)
        let second = try Self.makeNode()
        try second.start()
        defer { second.close() }
        let found = Mutex<NodeID?>(nil)
        let waiter = try KernelThread(name: "test-waiter") {
            let peer = follower.current(until: .after(.seconds(20)))
            found.withLock { $0 = peer?.id }
        }
        follower.membershipChanged([member("storage1", other), member("storage0", second)])
        waiter.join()
        #expect(found.withLock { $0 } == second.id)
        #expect(connections.wait(within: .seconds(20)) { follower.current()?.id == second.id })
    }
}
