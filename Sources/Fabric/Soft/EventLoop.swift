import CLinux
import Glibc
import Kernel
import Synchronization

/// Something with a descriptor that the device's thread watches.
protocol EventHandler: AnyObject, Sendable {
    /// The descriptor is ready. On the device's thread.
    func handle(_ events: UInt32)
}

/// The one thread of a soft device: it sleeps in epoll(7) until a socket or another thread wants it.
final class EventLoop: @unchecked Sendable {
    private struct Table {
        var handlers: [UInt64: any EventHandler] = [:]
        var nextToken: UInt64 = 1
    }

    private let epoll: Epoll
    private let wakeEvent: EventDescriptor
    private let table = Mutex(Table())
    private let isStopping = Atomic<Bool>(false)
    /// How long the thread goes on looking after it has served a socket, where that pays: waking it takes as long.
    private static let spin_ns: UInt64 = 30_000
    /// The thread's.
    private let gauge = SpinGauge()
    /// The owner's: set by `start`, cleared by `stop`.
    private let thread = Mutex<KernelThread?>(nil)

    init() throws(KernelError) {
        epoll = try Epoll()
        wakeEvent = try EventDescriptor()
        try epoll.add(wakeEvent.raw, token: 0)
    }

    /// For passing on to peers, who wake this thread by writing to it.
    var wakeDescriptor: Int32 { wakeEvent.raw }

    /// Starts the thread. `tick` runs on it after every wake-up and answers when to run at the latest again.
    func start(name: String, tick: @escaping @Sendable () -> Deadline) throws(KernelError) {
        let started = try KernelThread(name: name) { [self] in run(tick) }
        thread.withLock { $0 = started }
    }

    private func run(_ tick: () -> Deadline) {
        let capacity = 32
        let events = UnsafeMutableBufferPointer<epoll_event>.allocate(capacity: capacity)
        defer { events.deallocate() }
        var deadline = Deadline.never
        /// When looking without sleeping ends; 0 when the thread sleeps.
        var spinEnd: UInt64 = 0
        while !isStopping.load(ordering: .acquiring) {
            let count = epoll.wait(into: events, until: spinEnd == 0 ? deadline : Deadline(nanoseconds: 0))
            if count == 0, spinEnd != 0 {
                if monotonicNanoseconds() >= spinEnd {
                    gauge.fail()
                    spinEnd = 0
                }
                continue
            }
            var isHandled = false
            for index in 0..<count {
                let token = events[index].data.u64
                if token == 0 {
                    wakeEvent.drain()
                } else if let handler = table.withLock({ $0.handlers[token] }) {
                    handler.handle(events[index].events)
                    isHandled = true
                }
            }
            deadline = tick()
            if isHandled {
                // A peer's next request is often close behind its last.
                if spinEnd != 0 { gauge.succeed() }
                spinEnd = gauge.shouldSpin() ? monotonicNanoseconds() &+ Self.spin_ns : 0
            }
        }
    }

    /// Lets the thread run its tick.
    func wake() { wakeEvent.signal() }

    /// Introduces a handler; answers its token. Any thread.
    func register(_ handler: any EventHandler) -> UInt64 {
        table.withLock { table in
            defer { table.nextToken += 1 }
            table.handlers[table.nextToken] = handler
            return table.nextToken
        }
    }

    /// Watches a descriptor for a registered handler. Any thread.
    func watch(_ descriptor: Int32, token: UInt64, events: EPOLL_EVENTS = EPOLLIN) throws(KernelError) {
        do {
            try epoll.add(descriptor, events: events, token: token)
        } catch {
            _ = table.withLock { $0.handlers.removeValue(forKey: token) }
            throw error
        }
    }

    /// Changes what a descriptor is watched for.
    func modify(_ descriptor: Int32, token: UInt64, events: EPOLL_EVENTS) {
        try? epoll.modify(descriptor, events: events, token: token)
    }

    /// Forgets a descriptor, which is still open. Its handler may run once more, if it is running now.
    func remove(_ descriptor: Int32, token: UInt64) {
        try? epoll.remove(descriptor)
        _ = table.withLock { $0.handlers.removeValue(forKey: token) }
    }

    /// Ends the thread and forgets all handlers. Not on the thread itself.
    func stop() {
        isStopping.store(true, ordering: .sequentiallyConsistent)
        wake()
        thread.join()
        table.withLock { $0.handlers = [:] }
    }
}
