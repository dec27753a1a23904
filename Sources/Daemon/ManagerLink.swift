import CLinux
import Fabric
import Glibc
import Kernel
import Lite
import Logging
import Synchronization
import Wire

/// What a component tells the manager about itself, and what it wants to hear. The closures run on the link's thread;
/// they must not wait.
public struct ComponentHooks: Sendable {
    /// What the component offers, in bytes.
    public var capacityBytes: UInt64 = 0
    /// What of it is in use.
    public var usedBytes: @Sendable () -> UInt64 = { 0 }
    /// Where `legoctl` attaches (processors only).
    public var attachAddress = ""
    /// After each registration: the component's name and the manager's node.
    public var registered: @Sendable (_ name: String, _ manager: NodeID) -> Void = { _, _ in }
    /// After each change of the membership.
    public var membershipChanged: @Sendable ([RackMember]) -> Void = { _ in }
    /// With each heartbeat: what the rack's memory components have together, and how much is in use, in bytes.
    public var rackMemory: @Sendable (_ total: UInt64, _ used: UInt64) -> Void = { _, _ in }
    /// What to report with each heartbeat.
    public var reports: @Sendable () -> [ProcessorManagerReport] = { [] }

    public init() {}
}

/// The component's membership in the rack: registers it, renews its lease, registers it anew when the manager restarted
/// or had given it up, and follows the membership. While the manager is away the component goes on working.
///
/// Lock order: `state` is a leaf; nothing is called while it is held.
public final class ManagerLink: Sendable {
    private struct State {
        /// The manager, while this component is registered there.
        var registeredAt: LitePeer?
        var name: String
        var isStopping = false
    }

    private let node: RackNode
    private let kind: ComponentKind
    private let manager: FabricAddress
    private let hooks: ComponentHooks
    private let logger: Logger
    /// Ends the daemon; called when the rack refuses the component for good.
    private let fail: @Sendable (DaemonError) -> Void
    /// How long a name may stay taken by a predecessor whose lease runs.
    private let nameLimit: Duration
    private let state: Mutex<State>
    /// Grows with every change of `registeredAt` and at the stop; callers that wait for the manager sleep on it.
    private let changes: SharedWord
    /// Wakes the link's thread: the manager's connection broke, or the stop.
    private let wake: EventDescriptor
    private let thread = Mutex<KernelThread?>(nil)

    /// How long one call of the manager may take.
    private static let exchangeLimit = Duration.seconds(2)

    /// `name` may be empty. Nothing happens before `start`.
    public init(
        node: RackNode, kind: ComponentKind, name: String, manager: FabricAddress, hooks: ComponentHooks,
        logger: Logger, nameLimit: Duration = .seconds(5), fail: @escaping @Sendable (DaemonError) -> Void
    ) throws(KernelError) {
        self.node = node
        self.kind = kind
        self.manager = manager
        self.hooks = hooks
        self.logger = logger
        self.fail = fail
        self.nameLimit = nameLimit
        self.state = Mutex(State(name: name))
        self.changes = SharedWord()
        self.wake = try EventDescriptor()
    }

    /// Starts to join the rack, and goes on trying for as long as it takes.
    public func start() throws(KernelError) {
        let thread = try KernelThread(name: "lego-link") { [self] in run() }
        self.thread.withLock { $0 = thread }
    }

    /// Leaves the manager alone from now on; returns when the link's thread has ended.
    public func stop() {
        state.withLock {
            $0.isStopping = true
            $0.registeredAt = nil
        }
        changes.advance()
        wake.signal()
        thread.join()
    }

    /// The component's name: as given, or as the manager chose it.
    public var name: String { state.withLock { $0.name } }

    /// Whether the peer is the manager where this component is registered.
    public func isManager(_ peer: LitePeer) -> Bool { state.withLock { $0.registeredAt === peer } }

    /// The manager's node, while this component is registered there.
    var managerNode: NodeID? { state.withLock { $0.registeredAt?.id } }

    /// To be called for every peer that Lite gives up.
    public func peerLost(_ peer: LitePeer) {
        let wasManager = state.withLock { state in
            guard state.registeredAt === peer else { return false }
            state.registeredAt = nil
            return true
        }
        if wasManager {
            changes.advance()
            wake.signal()
        }
    }

    /// Calls the manager. While it is away, waits for its return until the deadline; a call that failed because the
    /// manager went away, or did not know this component any more, is repeated then: for idempotent functions only. Any
    /// thread but the link's own.
    public func call<Request: WireMessage, Response: WireMessage>(
        _ function: FunctionID, _ request: Request, answer: Response.Type = Response.self, until deadline: Deadline
    ) -> (status: Status, response: Response?) {
        var last = Status.peerLost
        while !deadline.hasPassed {
            let seen = changes.value
            guard let peer = state.withLock({ $0.registeredAt }) else {
                if state.withLock({ $0.isStopping }) { return (.busy, nil) }
                changes.wait(while: seen, until: deadline)
                continue
            }
            let result = node.call(peer, function, request, answer: answer, until: deadline)
            last = result.status
            switch result.status {
            case .peerLost: peerLost(peer)
            case .fenced: registrationRefused(by: peer)
            default: return result
            }
        }
        return (last == .peerLost ? .timedOut : last, nil)
    }

    /// Reports a program's state; answers whether the manager took it before the deadline.
    public func report(_ report: ProcessorManagerReport, until deadline: Deadline) -> Bool {
        call(RackFunction.programReport, report, answer: Acknowledgement.self, until: deadline).status.isOK
    }

    // MARK: The link's thread

    private func run() {
        var pause = Backoff()
        var limit = ConnectLimit()
        var isFirst = true
        var nameDeadline: Deadline?
        while !isStopping {
            guard let peer = reach(&limit) else {
                wait(pause.next())
                continue
            }
            pause.reached()
            switch register(at: peer) {
            case .registered(let answer):
                state.withLock {
                    $0.name = answer.name
                    if !$0.isStopping { $0.registeredAt = peer }
                }
                changes.advance()
                logger.info(
                    "registered", metadata: ["as": "\(answer.name)", "manager": "\(manager)", "node": "\(node.id)"])
                hooks.registered(answer.name, peer.id)
                isFirst = false
                nameDeadline = nil
                renew(at: peer, answer)
            case .nameTaken:
                // A predecessor that was killed keeps the name until the manager gives it up.
                let deadline = nameDeadline ?? Deadline.after(nameLimit)
                nameDeadline = deadline
                if isFirst && deadline.hasPassed {
                    fail(DaemonError("the name '\(name)' is taken by a living component; choose another with --name"))
                    return
                }
                wait(.milliseconds(100))
            case .refused(let status):
                logger.warning("the manager refuses the registration", metadata: ["status": "\(status.rawValue)"])
                node.disconnect(peer)
                wait(pause.next())
            }
        }
    }

    private var isStopping: Bool { state.withLock { $0.isStopping } }

    /// Waits at most `span`; less when something happened.
    private func wait(_ span: Duration) {
        var watched = pollfd(fd: wake.raw, events: Int16(POLLIN), revents: 0)
        _ = poll(&watched, 1, Deadline.after(span).pollMilliseconds)
        wake.drain()
    }

    private func reach(_ limit: inout ConnectLimit) -> LitePeer? {
        do {
            return try limit.connect(node, to: manager)
        } catch {
            logger.warning("cannot reach the manager; trying again", metadata: ["reason": "\(error)"])
            return nil
        }
    }

    private enum Registration {
        case registered(ManagerComponentRegistered)
        case nameTaken
        case refused(Status)
    }

    private func register(at peer: LitePeer) -> Registration {
        let request = ComponentManagerRegister(
            kind: kind, name: name, node: node.id, liteAddress: node.address.description,
            attachAddress: hooks.attachAddress, capacityBytes: hooks.capacityBytes,
            processID: UInt32(getpid()), hostID: HostIdentity.bootID)
        let result = node.call(
            peer, RackFunction.registerComponent, request, answer: ManagerComponentRegistered.self,
            until: .after(Self.exchangeLimit))
        if result.status == .exists { return .nameTaken }
        guard result.status.isOK, let answer = result.response else { return .refused(result.status) }
        return .registered(answer)
    }

    /// Renews the lease until the manager is gone or has given this component up.
    private func renew(at peer: LitePeer, _ registration: ManagerComponentRegistered) {
        let period = Duration.milliseconds(Int64(max(40, registration.leaseMilliseconds))) / 4
        var knownEpoch: UInt64?
        var epoch = registration.membershipEpoch
        while state.withLock({ $0.registeredAt === peer }) {
            if knownEpoch != epoch { knownEpoch = fetchMembership(from: peer) ?? knownEpoch }
            for report in hooks.reports() {
                let result = node.call(
                    peer, RackFunction.programReport, report, answer: Acknowledgement.self,
                    until: .after(Self.exchangeLimit))
                if !result.status.isOK { break }
            }
            wait(period)
            if isStopping { return }
            let beat = ComponentManagerHeartbeat(node: node.id, usedBytes: hooks.usedBytes())
            let result = node.call(
                peer, RackFunction.heartbeat, beat, answer: ManagerComponentHeartbeat.self,
                until: .after(Self.exchangeLimit))
            switch result.status {
            case .ok:
                if let answer = result.response {
                    epoch = answer.membershipEpoch
                    hooks.rackMemory(answer.memoryBytes, answer.memoryUsedBytes)
                }
            case .fenced:
                logger.warning("the manager had given this component up; registering again")
                registrationRefused(by: peer)
                return
            default:
                logger.warning(
                    "the manager does not answer; trying again", metadata: ["status": "\(result.status.rawValue)"])
                // A connection whose answers fail to come is of no use any more, even when it looks alive.
                node.disconnect(peer)
                peerLost(peer)
                return
            }
        }
    }

    /// The manager does not know this component: register again over the same connection.
    private func registrationRefused(by peer: LitePeer) { peerLost(peer) }

    private func fetchMembership(from peer: LitePeer) -> UInt64? {
        let result = node.call(
            peer, RackFunction.membership, ComponentManagerMembership(), answer: ManagerComponentMembership.self,
            until: .after(Self.exchangeLimit))
        guard result.status.isOK, let membership = result.response else { return nil }
        hooks.membershipChanged(membership.members)
        return membership.epoch
    }
}

/// Growing pauses between attempts: 50 ms, then twice as long each time, at most 1 s.
struct Backoff {
    private var milliseconds: Int64 = 50

    mutating func next() -> Duration {
        defer { milliseconds = min(1000, milliseconds * 2) }
        return .milliseconds(milliseconds)
    }

    mutating func reached() { milliseconds = 50 }
}

/// How long an attempt to connect may take: 2 s, and after one that was too short twice as long, at most 8 s. Each begins anew, so
/// that on a slow host attempts of one length could all be cut short: an adapter pins the memory of the messages, at both ends.
struct ConnectLimit {
    private var seconds: Int64 = 2
    private static let seconds_max: Int64 = 8

    mutating func connect(_ node: RackNode, to address: FabricAddress) throws(LiteError) -> LitePeer {
        do throws(LiteError) {
            let peer = try node.connect(to: address, until: .after(.seconds(seconds)))
            seconds = 2
            return peer
        } catch {
            if case .fabric(.timedOut) = error { seconds = min(Self.seconds_max, seconds * 2) }
            throw error
        }
    }
}

/// Which boot of which machine this is.
public enum HostIdentity {
    /// /proc/sys/kernel/random/boot_id; empty where it cannot be read.
    public static let bootID: String = {
        let descriptor = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC)
        if descriptor < 0 { return "" }
        let file = Descriptor(taking: descriptor)
        return withUnsafeTemporaryAllocation(byteCount: 64, alignment: 1) { buffer in
            let count = max(0, read(file.raw, buffer.baseAddress, buffer.count))
            let text = String(decoding: UnsafeRawBufferPointer(rebasing: buffer[..<count]), as: UTF8.self)
            return text.filter { $0 != "\n" }
        }
    }()
}

/// A counter that threads sleep on.
final class SharedWord: @unchecked Sendable {
    // Accessed only by the atomic helpers and the futex.
    private let word = UnsafeMutablePointer<UInt32>.allocate(capacity: 1)
    init() { word.initialize(to: 0) }
    deinit { word.deallocate() }

    var value: UInt32 { lego_atomic_load_u32(word) }

    func advance() {
        _ = lego_atomic_add_u32(word, 1)
        Futex.wake(word, count: .max)
    }

    /// Sleeps while the counter stands at `value`, at most until the deadline.
    func wait(while value: UInt32, until deadline: Deadline) { Futex.wait(word, while: value, until: deadline) }
}
