import CLinux
import Kernel

/// Requests that wait to be received, oldest first, and receivers that wait for requests: never both. Safe on any
/// thread; its lock comes before a channel's.
final class FunctionQueue: @unchecked Sendable {
    struct Request {
        var call: IncomingCall
        var bytes: UnsafeMutableRawBufferPointer
    }
    let function: UInt64
    let session: Session
    let bytes_max: Int
    let depth: Int
    let lock = AdaptiveLock()
    // Protected by `lock`.
    private var requests = Ring<Request>()
    private var receivers = Ring<WaitToken>()
    private(set) var isClosed = false

    init(function: UInt64, session: Session, bytes_max: Int, depth: Int) {
        self.function = function
        self.session = session
        self.bytes_max = bytes_max
        self.depth = depth
    }

    /// Ends serving; answers the requests that nobody has received.
    func close() -> [Request] {
        lock.lock()
        defer { lock.unlock() }
        isClosed = true
        receivers = Ring()
        return requests.popAll()
    }

    /// The oldest receiver, now the caller's. `lock` is held.
    func takeReceiverLocked() -> WaitToken? { receivers.popFirst() }
    /// The oldest request, now the caller's. `lock` is held.
    func takeRequestLocked() -> Request? { requests.popFirst() }
    var isFullLocked: Bool { requests.count >= depth }
    func addLocked(_ request: Request) { requests.append(request) }
    func addLocked(_ receiver: WaitToken) { receivers.append(receiver) }

    var requestCount: Int {
        lock.lock()
        defer { lock.unlock() }
        return requests.count
    }
    var receiverCount: Int {
        lock.lock()
        defer { lock.unlock() }
        return receivers.count
    }

    /// A receiver no longer waits.
    func withdraw(_ receiver: WaitToken) {
        lock.lock()
        receivers.removeAll(where: { $0.rawValue == receiver.rawValue })
        lock.unlock()
    }
}

/// The functions that programs of this node serve. Safe on any thread; its lock is a leaf.
final class FunctionRegistry: @unchecked Sendable {
    private let lock = AdaptiveLock()
    // Protected by `lock`.
    /// By number.
    private var queues = [FunctionQueue?](repeating: nil, count: 1 << 16)
    /// The numbers of those that are served.
    private var served: Set<UInt64> = []

    /// False when the function is served.
    func add(_ queue: FunctionQueue) -> Bool {
        lock.lock()
        defer { lock.unlock() }
        if queues[Int(queue.function)] != nil { return false }
        queues[Int(queue.function)] = queue
        served.insert(queue.function)
        return true
    }

    func find(_ function: UInt64) -> FunctionQueue? {
        lock.lock()
        defer { lock.unlock() }
        return function < UInt64(queues.count) ? queues[Int(function)] : nil
    }

    /// Takes a function out that the session serves.
    func remove(_ function: UInt64, of session: Session) -> FunctionQueue? {
        lock.lock()
        defer { lock.unlock() }
        guard function < UInt64(queues.count), let queue = queues[Int(function)], queue.session === session else {
            return nil
        }
        removeLocked(function)
        return queue
    }

    private func removeLocked(_ function: UInt64) {
        queues[Int(function)] = nil
        served.remove(function)
    }

    var all: [FunctionQueue] {
        lock.lock()
        defer { lock.unlock() }
        return served.compactMap { queues[Int($0)] }
    }

    func removeAll(of session: Session) -> [FunctionQueue] {
        lock.lock()
        defer { lock.unlock() }
        let mine = served.compactMap { queues[Int($0)] }.filter { $0.session === session }
        for queue in mine { removeLocked(queue.function) }
        return mine
    }
}
