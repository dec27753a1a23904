import Fabric
import Glibc
import Kernel
import Lite
import Logging
import Synchronization
import Wire

/// Keeps a connection to the rack's component of one kind, through its restarts: how a processor reaches its storage.
///
/// Lock order: `state` is a leaf.
public final class PeerFollower: Sendable {
    private struct State {
        /// The name of the component that is followed, from the first that the rack had.
        var chosenName: String?
        /// Its present life; nil while it is lost.
        var target: RackMember?
        /// The connection to it, once made and while it lives.
        var peer: LitePeer?
        var isStopping = false
    }

    private let node: RackNode
    private let kind: ComponentKind
    private let logger: Logger
    private let connected: @Sendable () -> Void
    private let state = Mutex(State())
    private let wake: EventDescriptor
    /// Grows with every connection and at the stop.
    private let changes = SharedWord()
    private let thread = Mutex<KernelThread?>(nil)

    /// `connected` runs on the follower's thread after each connection; it must not wait.
    public init(
        node: RackNode, kind: ComponentKind, logger: Logger, connected: @escaping @Sendable () -> Void
    ) throws(KernelError) {
        self.connected = connected
        self.node = node
        self.kind = kind
        self.logger = logger
        self.wake = try EventDescriptor()
    }

    public func start() throws(KernelError) {
        let thread = try KernelThread(name: "lego-follow") { [self] in run() }
        self.thread.withLock { $0 = thread }
    }

    public func stop() {
        state.withLock { $0.isStopping = true }
        changes.advance()
        wake.signal()
        thread.join()
    }

    /// The connected component; nil while there is none. Any thread, cheap.
    public func current() -> LitePeer? {
        state.withLock { $0.peer.flatMap { $0.isConnected ? $0 : nil } }
    }

    /// The connected component; waits for it until the deadline. nil at the deadline and after the stop.
    public func current(until deadline: Deadline) -> LitePeer? {
        while true {
            let seen = changes.value
            if let peer = current() { return peer }
            if deadline.hasPassed || state.withLock({ $0.isStopping }) { return nil }
            changes.wait(while: seen, until: deadline)
        }
    }

    /// The name of the component that is followed; nil until the rack has one.
    public var name: String? { state.withLock { $0.chosenName } }

    /// For `ComponentHooks.membershipChanged`. Takes the first component by name, and later only that name in its next
    /// life: another component has other contents.
    public func membershipChanged(_ members: [RackMember]) {
        let living = members.filter { $0.kind == kind && $0.health != .lost }.sorted { $0.name < $1.name }
        state.withLock { state in
            let chosen = state.chosenName ?? living.first?.name
            state.chosenName = chosen
            state.target = living.first { $0.name == chosen }
            if state.peer?.id != state.target?.node { state.peer = nil }
        }
        wake.signal()
    }

    /// To be called for every peer that Lite gives up.
    public func peerLost(_ peer: LitePeer) {
        let wasTarget = state.withLock { state in
            guard state.peer === peer else { return false }
            state.peer = nil
            return true
        }
        if wasTarget { wake.signal() }
    }

    private func run() {
        var pause = Backoff()
        var limit = ConnectLimit()
        while true {
            let (target, isStopping) = state.withLock { ($0.peer == nil ? $0.target : nil, $0.isStopping) }
            if isStopping { return }
            guard let target else {
                wait(until: .never)
                continue
            }
            if connect(to: target, &limit) {
                pause.reached()
            } else {
                wait(until: .after(pause.next()))
            }
        }
    }

    private func connect(to target: RackMember, _ limit: inout ConnectLimit) -> Bool {
        guard let address = FabricAddress(target.liteAddress) else { return false }
        do {
            let peer = try limit.connect(node, to: address)
            // Another life of the component at the same address: the membership will name it.
            if peer.id != target.node { return false }
            state.withLock { if $0.target?.node == target.node { $0.peer = peer } }
            changes.advance()
            connected()
            logger.info("connected", metadata: ["to": "\(target.name)", "node": "\(target.node)"])
            return true
        } catch {
            logger.debug("cannot reach \(target.name)", metadata: ["reason": "\(error)"])
            return false
        }
    }

    private func wait(until deadline: Deadline) {
        var watched = pollfd(fd: wake.raw, events: Int16(POLLIN), revents: 0)
        _ = poll(&watched, 1, deadline.pollMilliseconds)
        wake.drain()
    }
}
