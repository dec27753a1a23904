import Testing
import Wire

@testable import ManagerService

/// A membership that expectations can change: their operands are immutable values.
private final class Subject {
    var value: Membership

    init(_ value: Membership) { self.value = value }

    func register(_ request: ComponentManagerRegister, now: UInt64) -> Membership.Registration {
        value.register(request, now: now)
    }
    func heartbeat(_ node: NodeID, usedBytes: UInt64, now: UInt64) -> Bool {
        value.heartbeat(node, usedBytes: usedBytes, now: now)
    }
    func expire(now: UInt64) -> [Component] { value.expire(now: now) }
    func postpone(by nanoseconds: UInt64) { value.postpone(by: nanoseconds) }
    func disconnected(_ node: NodeID) { value.disconnected(node) }
    func component(named name: String) -> Component? { value.component(named: name) }
    func reachable(_ kind: ComponentKind) -> [String] { value.reachable(kind).map(\.name) }
    var components: [Component] { value.components }
    var epoch: UInt64 { value.epoch }
}

/// Time is a number here; nothing waits.
@Suite struct MembershipTests {
    private let membership = Subject(Membership(lease: 1500, epoch: 10))

    private func request(_ node: UInt64, _ name: String, kind: ComponentKind = .memory) -> ComponentManagerRegister {
        ComponentManagerRegister(
            kind: kind, name: name, node: NodeID(rawValue: node), liteAddress: "h:\(node)", attachAddress: "",
            capacityBytes: 100, processID: 1, hostID: "h")
    }

    private func health(_ name: String) -> RackMember.Health? { membership.component(named: name)?.health }

    @Test func aSilentComponentIsSuspectAndThenLost() {
        _ = membership.register(request(1, "memory0"), now: 0)
        #expect(health("memory0") == .healthy)
        #expect(membership.expire(now: 749).isEmpty && health("memory0") == .healthy)
        #expect(membership.expire(now: 750).isEmpty && health("memory0") == .suspect)
        #expect(membership.expire(now: 1499).isEmpty && health("memory0") == .suspect)
        let lost = membership.expire(now: 1500)
        #expect(lost.map(\.name) == ["memory0"] && health("memory0") == .lost)
        #expect(membership.expire(now: 9999).isEmpty, "a loss is told once")
    }

    /// The manager stood still: those whose connection holds are not blamed for what it did not hear.
    @Test func timeInWhichNobodyListenedDoesNotCount() {
        _ = membership.register(request(1, "memory0"), now: 0)
        _ = membership.register(request(2, "memory1"), now: 0)
        membership.disconnected(NodeID(rawValue: 2))
        membership.postpone(by: 4000)
        let lost = membership.expire(now: 4100)
        #expect(lost.map(\.name) == ["memory1"] && health("memory0") == .healthy)
        #expect(membership.expire(now: 5499).isEmpty)
        #expect(membership.expire(now: 5500).map(\.name) == ["memory0"])
    }

    @Test func aTickerKnowsWhenItStoodStill() {
        #expect(Ticker.lateness(100_000_000) == 0 && Ticker.lateness(300_000_000) == 0)
        #expect(Ticker.lateness(1_700_000_000) == 1_600_000_000)
    }

    @Test func heartbeatsRenewTheLeaseAndHealSuspicion() {
        _ = membership.register(request(1, "memory0"), now: 0)
        _ = membership.expire(now: 1000)
        #expect(health("memory0") == .suspect)
        let epoch = membership.epoch
        let isMember = membership.heartbeat(NodeID(rawValue: 1), usedBytes: 42, now: 1400)
        #expect(isMember && health("memory0") == .healthy)
        #expect(membership.epoch > epoch)
        #expect(membership.component(named: "memory0")?.usedBytes == 42)
        #expect(membership.expire(now: 2899).isEmpty)
        #expect(membership.expire(now: 2900).count == 1)
    }

    @Test func strangersAndTheLostAreFenced() {
        #expect(!membership.heartbeat(NodeID(rawValue: 9), usedBytes: 0, now: 0))
        _ = membership.register(request(1, "memory0"), now: 0)
        _ = membership.expire(now: 1500)
        #expect(!membership.heartbeat(NodeID(rawValue: 1), usedBytes: 0, now: 1501))
        #expect(health("memory0") == .lost)
        guard case .accepted(let component, lost: nil) = membership.register(request(1, "memory0"), now: 1600) else {
            Issue.record("the lost component may not come back")
            return
        }
        #expect(component.health == .healthy)
        #expect(membership.heartbeat(NodeID(rawValue: 1), usedBytes: 0, now: 1700))
    }

    @Test func aBrokenConnectionMakesSuspectAtOnceAndLostWithTheLease() {
        _ = membership.register(request(1, "memory0"), now: 0)
        membership.disconnected(NodeID(rawValue: 1))
        #expect(health("memory0") == .suspect)
        #expect(membership.expire(now: 1499).isEmpty)
        #expect(membership.expire(now: 1500).count == 1)
    }

    @Test func aLivingComponentKeepsItsName() {
        _ = membership.register(request(1, "memory0"), now: 0)
        #expect(membership.register(request(2, "memory0"), now: 1) == .nameTaken)
        // Merely late is living still.
        _ = membership.expire(now: 800)
        #expect(membership.register(request(2, "memory0"), now: 801) == .nameTaken)
    }

    @Test func aSuccessorTakesTheNameOfTheLostAndOfTheDisconnected() {
        _ = membership.register(request(1, "memory0"), now: 0)
        membership.disconnected(NodeID(rawValue: 1))
        guard case .accepted(_, let lost?) = membership.register(request(2, "memory0"), now: 10) else {
            Issue.record("the successor is refused")
            return
        }
        #expect(lost.node == NodeID(rawValue: 1) && lost.health == .lost)
        #expect(!membership.heartbeat(NodeID(rawValue: 1), usedBytes: 0, now: 11), "the predecessor is fenced")
        #expect(membership.heartbeat(NodeID(rawValue: 2), usedBytes: 0, now: 11))
        _ = membership.expire(now: 5000)
        guard case .accepted(_, lost: nil) = membership.register(request(3, "memory0"), now: 5001) else {
            Issue.record("a loss that was told already is told again, or the name is refused")
            return
        }
        #expect(membership.components.count == 1)
    }

    @Test func namesAreChosenWhereNoneIsGiven() {
        func name(_ outcome: Membership.Registration) -> String? {
            if case .accepted(let component, _) = outcome { component.name } else { nil }
        }
        #expect(name(membership.register(request(1, ""), now: 0)) == "memory0")
        #expect(name(membership.register(request(2, ""), now: 0)) == "memory1")
        #expect(name(membership.register(request(3, "", kind: .processor), now: 0)) == "processor0")
        #expect(name(membership.register(request(1, ""), now: 1)) == "memory0", "whoever comes back keeps its name")
        _ = membership.heartbeat(NodeID(rawValue: 2), usedBytes: 0, now: 1400)
        _ = membership.expire(now: 1501)
        #expect(name(membership.register(request(4, ""), now: 1501)) == "memory0", "a lost one's name is free")
    }

    @Test(arguments: ["manager", "a/b", "-a", ".", "a b", "é", "a\u{1B}", String(repeating: "a", count: 65)])
    func unusableNames(name: String) {
        #expect(membership.register(request(1, name), now: 0) == .malformed)
    }

    @Test func thereIsOnlyOneManagerAndABoundedNumberOfComponents() {
        #expect(membership.register(request(1, "other", kind: .manager), now: 0) == .malformed)
        for index in 0..<Membership.components_max {
            _ = membership.register(request(UInt64(index + 1), ""), now: 0)
        }
        #expect(membership.register(request(999, "one-more"), now: 0) == .full)
        #expect(membership.components.count == Membership.components_max)
        // The worst listing fits a message.
        let member = RackMember(
            kind: .memory, health: .healthy, name: String(repeating: "n", count: WireLimit.name_max),
            node: NodeID(rawValue: 1), liteAddress: String(repeating: "a", count: WireLimit.address_max))
        let listing = ManagerComponentMembership(
            epoch: 1, members: Array(repeating: member, count: Membership.components_max))
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        #expect(buffer.withUnsafeMutableBytes { listing.encode(into: $0) } != nil)
    }

    @Test func aRestartedManagerGivesItsComponentsTimeToComeBack() {
        _ = membership.register(request(1, "memory0"), now: 0)
        _ = membership.register(request(2, "memory1"), now: 0)
        let restarted = Subject(Membership(lease: 1500, epoch: membership.epoch))
        restarted.value.restore(membership.components, now: 100_000, grace: 3000)
        #expect(restarted.epoch > membership.epoch)
        #expect(restarted.components.map(\.health) == [.suspect, .suspect])
        #expect(!restarted.components.contains { $0.isConnected })
        #expect(restarted.expire(now: 102_999).isEmpty)
        _ = restarted.register(request(2, "memory1"), now: 102_999)
        #expect(restarted.expire(now: 103_000).map(\.name) == ["memory0"])
        #expect(restarted.component(named: "memory1")?.health == .healthy)
    }

    @Test func theLateCanBeReachedTheDisconnectedAndTheLostCannot() {
        for (node, name) in [(1, "memory0"), (2, "memory1"), (3, "memory2")] as [(UInt64, String)] {
            _ = membership.register(request(node, name), now: 0)
        }
        #expect(membership.reachable(.memory) == ["memory0", "memory1", "memory2"])
        #expect(membership.reachable(.processor) == [])
        membership.disconnected(NodeID(rawValue: 3))
        _ = membership.expire(now: 800)
        #expect(membership.reachable(.memory) == ["memory0", "memory1"])
        #expect(membership.heartbeat(NodeID(rawValue: 1), usedBytes: 0, now: 900))
        _ = membership.expire(now: 1500)
        #expect(membership.reachable(.memory) == ["memory0"])
    }

    @Test func componentsAreListedByKindAndName() {
        for (node, name, kind) in [
            (1, "memory10", .memory), (2, "memory9", .memory), (3, "storage0", .storage), (4, "processor0", .processor),
        ] as [(UInt64, String, ComponentKind)] {
            _ = membership.register(request(node, name, kind: kind), now: 0)
        }
        #expect(membership.components.map(\.name) == ["processor0", "memory9", "memory10", "storage0"])
    }
}
