import CLinux
import Glibc
import Kernel
import Lite
import Synchronization
import Wire

/// A connection to a storage component that has told its root. A new one begins when the component was restarted or the
/// connection was lost; handles of an earlier session mean nothing in it.
struct StorageSession: Sendable {
    let peer: LitePeer
    /// From 1, one more for each session.
    let number: UInt32
    let root: UInt64
}

/// Finds the storage component and waits, within bounds, while it is away. Any thread.
final class StorageLink: Sendable {
    private struct State {
        var session: StorageSession?
        var sessions: UInt32 = 0
        /// Since when (monotonic nanoseconds) there has been none; 0 while there is one.
        var lostSince: UInt64 = 0
        var isClosed = false
    }

    let node: RackNode
    private let storage: @Sendable () -> LitePeer?
    /// How long requests wait for a component that is away, counted from its loss: later ones fail at once.
    private let patience: Duration
    private let state = Mutex(State())
    /// Grows when there may be a new component to ask for. Waited on with futex(2).
    private nonisolated(unsafe) let changes: UnsafeMutablePointer<UInt32>

    init(node: RackNode, storage: @escaping @Sendable () -> LitePeer?, patience: Duration) {
        self.node = node
        self.storage = storage
        self.patience = patience
        changes = .allocate(capacity: 1)
        changes.initialize(to: 0)
    }

    deinit { changes.deallocate() }

    /// The session with the component of this moment. Waits for one while the deadline and the patience last; nil then.
    func session(until deadline: Deadline) -> StorageSession? {
        while true {
            let change = lego_atomic_load_u32(changes)
            if let peer = storage(), peer.isConnected, let session = session(with: peer, until: deadline) {
                return session
            }
            let now = monotonicNanoseconds()
            let (isClosed, lostSince) = state.withLock { state in
                if state.lostSince == 0 { state.lostSince = now }
                return (state.isClosed, state.lostSince)
            }
            let waited = Duration.nanoseconds(Int64(clamping: now - lostSince))
            if isClosed || deadline.hasPassed || waited >= patience { return nil }
            // The owner tells changes; looking again after a while covers an owner that does not.
            let again = min(Deadline.after(min(patience - waited, .milliseconds(100))), deadline)
            Futex.wait(changes, while: change, until: again)
        }
    }

    private func session(with peer: LitePeer, until deadline: Deadline) -> StorageSession? {
        if let session = state.withLock({ $0.session }), session.peer === peer { return session }
        let (status, root) = node.call(
            peer, StorageFunction.attach, ProcessorStorageAttach(), answer: StorageEntry.self, until: deadline)
        guard status.isOK, let root else { return nil }
        return state.withLock { state in
            // Another thread may have been faster.
            if let session = state.session, session.peer === peer { return session }
            state.sessions += 1
            state.lostSince = 0
            let session = StorageSession(peer: peer, number: state.sessions, root: root.node)
            state.session = session
            return session
        }
    }

    /// The session of this moment, if there is one, without waiting or asking.
    var current: StorageSession? { state.withLock { $0.session } }

    /// A call said that the session's peer is lost.
    func lost(_ session: StorageSession) {
        state.withLock { state in
            if state.session?.number == session.number { state.session = nil }
        }
    }

    /// Ends the connection: nothing that is under way can touch this node's memory afterwards.
    func fence(_ session: StorageSession) {
        lost(session)
        node.disconnect(session.peer)
    }

    /// There may be another component: whoever waits looks again.
    func changed() {
        _ = lego_atomic_add_u32(changes, 1)
        Futex.wake(changes, count: .max)
    }

    /// Whoever waits gives up, now and later.
    func close() {
        state.withLock { $0.isClosed = true }
        changed()
    }
}
