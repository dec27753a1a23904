import ProcessorService
import StorageMount
import Synchronization
import Wire

/// Tells when a processor can run programs: it is registered, and connected to the storage component if the rack has
/// one.
///
/// Lock order: `state` is a leaf.
final class ReadinessGate: Sendable {
    private struct State {
        var name: String?
        /// nil until the membership is known.
        var hasStorage: Bool?
        var isOpen = false
    }
    private let state = Mutex(State())
    private let isConnected: @Sendable () -> Bool
    private let ready: @Sendable (_ name: String) -> Void

    /// `ready` is called once, on the thread that brought the last condition.
    init(isConnected: @escaping @Sendable () -> Bool, ready: @escaping @Sendable (String) -> Void) {
        self.isConnected = isConnected
        self.ready = ready
    }

    func registered(as name: String) {
        state.withLock { $0.name = name }
        check()
    }

    func membershipChanged(_ members: [RackMember]) {
        state.withLock { $0.hasStorage = members.contains { $0.kind == .storage && $0.health != .lost } }
        check()
    }

    func storageConnected() { check() }

    private func check() {
        let isConnected = isConnected()
        let name = state.withLock { state -> String? in
            guard let name = state.name, let hasStorage = state.hasStorage, !state.isOpen, isConnected || !hasStorage
            else { return nil }
            state.isOpen = true
            return name
        }
        if let name { ready(name) }
    }
}

/// Passes on that the storage component is connected, to parts that are made after what tells it.
final class Notices: Sendable {
    private struct Receivers {
        var mount: StorageMount?
        var gate: ReadinessGate?
        var service: ProcessorService?
    }
    private let receivers = Mutex(Receivers())

    func set(mount: StorageMount, gate: ReadinessGate, service: ProcessorService) {
        receivers.withLock { $0 = Receivers(mount: mount, gate: gate, service: service) }
    }

    /// A process dumps its core into the mount.
    func coreBegins(_ process: Int32) { receivers.withLock { $0.service }?.prepareCore(process: process) }

    func storageConnected() {
        let (mount, gate) = receivers.withLock { ($0.mount, $0.gate) }
        mount?.storageChanged()
        gate?.storageConnected()
    }
}
