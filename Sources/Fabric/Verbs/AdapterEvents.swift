import CVerbs
import Glibc
import Kernel
import Synchronization

/// What an adapter reports of itself (`ibv_get_async_event`): a port that goes down, a queue pair in error, its removal.
///
/// All devices of a process share one context of an adapter and so one stream of events: whichever device's thread takes
/// an event tells all devices of that adapter.
enum AdapterEvents {
    private struct Listener: Sendable {
        weak var manager: ConnectionManager?
    }

    /// Which connections an event has ended.
    enum Loss: Equatable {
        case pair(number: UInt32)
        /// All those over the adapter.
        case adapter
    }

    private static let listeners = Mutex<[Listener]>([])

    /// Lets the manager hear of its adapter's events; its thread watches the descriptor that this answers.
    static func add(_ manager: ConnectionManager) throws(KernelError) -> Int32 {
        let descriptor = manager.context.adapter.pointee.async_fd
        let flags = fcntl(descriptor, F_GETFL)
        if flags < 0 || fcntl(descriptor, F_SETFL, flags | O_NONBLOCK) < 0 { throw KernelError("fcntl F_SETFL") }
        listeners.withLock { listeners in
            listeners.removeAll { $0.manager == nil }
            listeners.append(Listener(manager: manager))
        }
        return descriptor
    }

    static func remove(_ manager: ConnectionManager) {
        listeners.withLock { $0.removeAll { $0.manager == nil || $0.manager === manager } }
    }

    /// Takes what has been reported and passes it on. On a manager's thread.
    static func drain(_ adapter: UnsafeMutablePointer<ibv_context>) {
        var event = ibv_async_event()
        while ibv_get_async_event(adapter, &event) == 0 {
            let loss = loss(event)
            // Before anything that waits: destroying a queue pair waits for its events to be acknowledged.
            ibv_ack_async_event(&event)
            if let loss { pass(loss, of: adapter) }
        }
    }

    /// Tells all devices of an adapter.
    static func pass(_ loss: Loss, of adapter: UnsafeMutablePointer<ibv_context>) {
        let managers = listeners.withLock { $0.compactMap(\.manager) }
        for manager in managers where manager.context.adapter == adapter { manager.lose(loss) }
    }

    /// nil when nothing has been lost.
    private static func loss(_ event: ibv_async_event) -> Loss? {
        switch event.event_type {
        case IBV_EVENT_QP_FATAL, IBV_EVENT_QP_REQ_ERR, IBV_EVENT_QP_ACCESS_ERR:
            event.element.qp.map { .pair(number: $0.pointee.qp_num) }
        // A completion queue in error has lost completions, of whichever pair.
        case IBV_EVENT_CQ_ERR, IBV_EVENT_DEVICE_FATAL, IBV_EVENT_PORT_ERR: .adapter
        default: nil
        }
    }
}
