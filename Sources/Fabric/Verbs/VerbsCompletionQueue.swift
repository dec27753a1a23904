import CVerbs
import Glibc
import Kernel

/// A completion queue of an adapter, with a completion channel.
public final class VerbsCompletionQueue: CompletionQueue, @unchecked Sendable {
    let context: VerbsContext
    let queue: UnsafeMutablePointer<ibv_cq>
    private let channel: UnsafeMutablePointer<ibv_comp_channel>
    /// Held while completions are turned into ours; a pair's end takes it too, so that no poll sees a log go.
    private let pollLock = SpinLock()

    private static let batch = 16

    init(context: VerbsContext, capacity: Int) throws(FabricError) {
        // The logs ask for some signals of their own.
        let entries = min(Int(context.limits.max_cqe), capacity * 2)
        guard entries >= capacity else {
            throw .invalid("a completion queue of \(capacity) is out of range: 1 to \(context.limits.max_cqe)")
        }
        guard let channel = ibv_create_comp_channel(context.adapter) else {
            throw .system(KernelError("ibv_create_comp_channel"))
        }
        let flags = fcntl(channel.pointee.fd, F_GETFL)
        guard flags >= 0, fcntl(channel.pointee.fd, F_SETFL, flags | O_NONBLOCK) == 0,
            let queue = ibv_create_cq(context.adapter, Int32(entries), nil, channel, 0)
        else {
            let error = KernelError("ibv_create_cq")
            ibv_destroy_comp_channel(channel)
            throw .system(error)
        }
        self.context = context
        self.queue = queue
        self.channel = channel
    }

    deinit {
        acknowledge()
        ibv_destroy_cq(queue)
        ibv_destroy_comp_channel(channel)
    }

    public func poll(into completions: UnsafeMutableBufferPointer<WorkCompletion>) -> Int {
        // Empty, and therefore not allocated, unless a request has failed.
        var failed: [WorkLog] = []
        let count = withUnsafeTemporaryAllocation(of: ibv_wc.self, capacity: Self.batch) { entries in
            pollLock.lock()
            defer { pollLock.unlock() }
            var filled = 0
            while filled < completions.count {
                let wanted = min(Self.batch, completions.count - filled)
                let count = Int(ibv_poll_cq(queue, Int32(wanted), entries.baseAddress))
                if count <= 0 { break }
                for index in 0..<count {
                    let number = WorkLog.Number(raw: entries[index].wr_id)
                    guard let log = context.logs[number.index],
                        let completion = log.completion(entries[index], number)
                    else { continue }
                    if completion.status != .success { failed.append(log) }
                    completions[filled] = completion
                    filled += 1
                }
            }
            return filled
        }
        // Outside the lock: the end of a pair takes it.
        for log in failed { log.fail() }
        return count
    }

    public var notificationDescriptor: Int32 { channel.pointee.fd }

    public func arm() { ibv_req_notify_cq(queue, 0) }

    public func acknowledge() {
        var count: UInt32 = 0
        var signaled: UnsafeMutablePointer<ibv_cq>?
        var user: UnsafeMutableRawPointer?
        while ibv_get_cq_event(channel, &signaled, &user) == 0 { count += 1 }
        if count > 0 { ibv_ack_cq_events(queue, count) }
    }

    /// Runs `body` while nobody polls.
    func whileNotPolled(_ body: () -> Void) {
        pollLock.lock()
        body()
        pollLock.unlock()
    }
}
