import Fabric
import Kernel
import Lite
import Synchronization
import Wire

/// A manager's node that answers components as a test says, and remembers what they said.
final class FakeManager: Sendable {
    struct State {
        var registrations: [ComponentManagerRegister] = []
        var heartbeats: [ComponentManagerHeartbeat] = []
        var reports: [ProcessorManagerReport] = []
        /// Answered to the next registrations, in order; then `ok`.
        var registrationStatuses: [Status] = []
        /// Answered to the next heartbeats, in order; then `ok`.
        var heartbeatStatuses: [Status] = []
        var epoch: UInt64 = 1
        var members: [RackMember] = []
    }

    let node: RackNode
    private let box: Box

    fileprivate final class Box: Sendable {
        let state = Mutex(State())
        let changes = Condition()
    }

    /// `leaseMilliseconds` sets the pace of the heartbeats: a quarter of it.
    init(listen: FabricAddress = FabricAddress(host: "127.0.0.1", port: 0), lease leaseMilliseconds: UInt32 = 200)
        throws
    {
        let box = Box()
        self.box = box
        node = try RackNode(
            device: RackDevice(), configuration: LiteConfiguration(name: "manager", listen: listen, poolBytes: 4096))
        node.register(
            RackFunction.registerComponent, ComponentManagerRegister.self, ManagerComponentRegistered.self
        ) { _, request in
            let (status, epoch) = box.update { state in
                state.registrations.append(request)
                return (
                    state.registrationStatuses.isEmpty ? .ok : state.registrationStatuses.removeFirst(), state.epoch
                )
            }
            let name = request.name.isEmpty ? "chosen0" : request.name
            let answer = ManagerComponentRegistered(
                name: name, leaseMilliseconds: leaseMilliseconds, membershipEpoch: epoch)
            return (status, status.isOK ? answer : nil)
        }
        node.register(RackFunction.heartbeat, ComponentManagerHeartbeat.self, ManagerComponentHeartbeat.self) {
            _, request in
            let (status, epoch) = box.update { state -> (Status, UInt64) in
                state.heartbeats.append(request)
                return (state.heartbeatStatuses.isEmpty ? .ok : state.heartbeatStatuses.removeFirst(), state.epoch)
            }
            return (status, status.isOK ? ManagerComponentHeartbeat(membershipEpoch: epoch) : nil)
        }
        node.register(RackFunction.membership, ComponentManagerMembership.self, ManagerComponentMembership.self) {
            _, _ in
            (.ok, box.state.withLock { ManagerComponentMembership(epoch: $0.epoch, members: $0.members) })
        }
        node.register(RackFunction.programReport, ProcessorManagerReport.self, Acknowledgement.self) { _, report in
            box.update { $0.reports.append(report) }
            return (.ok, Acknowledgement())
        }
        try node.start()
    }

    /// Changes what is answered.
    func update(_ change: (inout State) -> Void) { box.update(change) }

    /// Waits until the components have said what `condition` asks for; false after 20 s.
    func waits(for condition: (State) -> Bool) -> Bool {
        box.changes.wait(within: .seconds(20)) { box.state.withLock { condition($0) } }
    }
}

extension FakeManager.Box {
    fileprivate func update<Value>(_ change: (inout FakeManager.State) -> Value) -> Value {
        let value = state.withLock { change(&$0) }
        changes.notify()
        return value
    }
}

/// Something that threads of a test wait for, woken by whoever changes it.
final class Condition: @unchecked Sendable {
    // Accessed only by atomic operations and the futex.
    private let word = UnsafeMutablePointer<UInt32>.allocate(capacity: 1)
    private let lock = Mutex(())
    init() { word.initialize(to: 0) }
    deinit { word.deallocate() }

    func notify() {
        lock.withLock { _ in word.pointee &+= 1 }
        Futex.wake(word, count: .max)
    }

    /// False when the condition does not hold within the limit.
    func wait(within limit: Duration, _ condition: () -> Bool) -> Bool {
        let deadline = Deadline.after(limit)
        while true {
            let seen = lock.withLock { _ in word.pointee }
            if condition() { return true }
            if deadline.hasPassed { return false }
            Futex.wait(word, while: seen, until: deadline)
        }
    }
}
