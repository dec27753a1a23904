import CLinux
import Kernel
import Synchronization

/// A queue pair whose operations take the time of a link model: its requests go to the device as soon as they are
/// posted, so that data moves while time passes, and their completions are held until it has. Messages, which the peer
/// acts upon, go to the device when their time has come. Requests complete in the order in which they were posted.
///
/// A failed request and the end of the connection end the holding: what is held then comes at once.
///
/// Whoever posts, polls either completion queue, or paces (`LinkPacer`) carries it on.
final class PacedPair: @unchecked Sendable {
    /// A poster waits this long for a message's time itself, rather than leave it to another thread: shorter than a
    /// thread takes to wake. In nanoseconds.
    static let wait_ns: UInt64 = 2_000
    /// How soon a request is tried again that the device had no room for.
    private static let retry_ns: UInt64 = 1_000_000
    static let never = UInt64.max

    let number: UInt32
    private let kind: HybridQueuePair.Kind
    private let pacer: LinkPacer
    /// What the completions come to.
    let queue: SoftCompletionQueue
    /// Below this pair a request's number is this and its index. Random, so that it is not the number of a request
    /// that was posted before the model came.
    private let firstNumber = UInt64.random(in: 0 ... .max)

    /// Guards what follows. Held while requests are posted to the device; inside a completion queue's list of pairs.
    private let lock = SpinLock()
    private var requests: PacedQueue
    private var line: LinkLine?
    /// Those before it the device has; of these, those before `done` it has completed.
    private var released = 0
    private var done = 0
    private var lastDue: UInt64 = 0
    private var isEnded = false

    /// When the next message may be released, and when the next held completion is due; `never` without one. Written
    /// under the lock.
    private let releaseDue = Atomic<UInt64>(never)
    private let reportDue = Atomic<UInt64>(never)
    /// Whether a model is in force.
    private let isOnWord = Atomic<Bool>(false)

    init(
        _ kind: consuming HybridQueuePair.Kind, parameters: QueuePairParameters, queue: SoftCompletionQueue,
        pacer: LinkPacer
    ) {
        self.queue = queue
        self.pacer = pacer
        number = kind.number
        self.kind = kind
        requests = PacedQueue(parameters)
    }

    var isOn: Bool { isOnWord.load(ordering: .relaxed) }
    var nextRelease: UInt64 { releaseDue.load(ordering: .sequentiallyConsistent) }
    var nextReport: UInt64 { reportDue.load(ordering: .sequentiallyConsistent) }

    /// Follows another line from now on, or none. What has been posted keeps its time.
    func follow(_ line: LinkLine?) {
        lock.lock()
        self.line = line
        isOnWord.store(line != nil, ordering: .sequentiallyConsistent)
        lock.unlock()
    }

    /// As `QueuePair.postSend`.
    func postSend(_ request: borrowing WorkRequest) -> Bool {
        lock.lock()
        defer { lock.unlock() }
        // Switched off and through with what was held.
        if line == nil, requests.isEmpty { return kind.postSend(copy request) }
        if requests.isFull || kind.isConnecting { return false }
        var bytes = 0
        for element in request.local { bytes &+= Int(element.count) }
        let now = pacer.clock.now()
        if let line {
            lastDue = max(lastDue, line.reserve(bytes, request.opcode == .read ? .inward : .outward, now: now))
        }
        requests.append(request, bytes: bytes, due: line == nil ? 0 : lastDue)
        release(now, maySpin: true)
        let next = releaseDue.load(ordering: .relaxed)
        if next != Self.never { pacer.plan(next) }
        return true
    }

    /// Releases what is due, if anything waits. False when another thread is at it.
    @discardableResult
    func carryOn(_ now: UInt64) -> Bool {
        let next = releaseDue.load(ordering: .relaxed)
        if next == Self.never || (next > now && kind.isConnected) { return true }
        if !lock.tryLock() { return false }
        release(now, maySpin: false)
        lock.unlock()
        return true
    }

    /// The lock is held.
    private func release(_ start: UInt64, maySpin: Bool) {
        var now = start
        while released != requests.end {
            let entry = requests[released].pointee
            if entry.isMessage, now < entry.due, !isEnded, kind.isConnected {
                guard maySpin, entry.due - now <= Self.wait_ns else {
                    return releaseDue.store(entry.due, ordering: .sequentiallyConsistent)
                }
                repeat {
                    lego_spin_pause()
                    now = pacer.clock.now()
                } while now < entry.due
            }
            if !kind.postSend(requests.request(released, id: firstNumber &+ UInt64(released))) {
                return releaseDue.store(now &+ Self.retry_ns, ordering: .sequentiallyConsistent)
            }
            released &+= 1
        }
        releaseDue.store(Self.never, ordering: .sequentiallyConsistent)
    }

    /// Takes a send completion of the device, to be reported when it is due. False when it is not one of this pair's
    /// paced requests. A poll of the completion queue.
    func hold(_ completion: WorkCompletion) -> Bool {
        lock.lock()
        defer { lock.unlock() }
        let offset = completion.id &- firstNumber &- UInt64(done)
        guard offset < UInt64(released &- done) else { return false }
        // In order, and one for each.
        let index = done &+ Int(offset)
        requests[index].pointee.status = completion.status
        requests[index].pointee.count = completion.count
        done = index &+ 1
        if completion.status != .success { isEnded = true }
        noteReport()
        return true
    }

    /// Reports what is due into `completions[from...]`; answers how many. A poll of the completion queue.
    func report(into completions: UnsafeMutableBufferPointer<WorkCompletion>, from: Int, now: UInt64) -> Int {
        if nextReport == Self.never { return 0 }
        lock.lock()
        defer { lock.unlock() }
        let isOver = isEnded || !kind.isConnected
        var count = 0
        while requests.first != done, from &+ count < completions.count {
            let entry = requests[requests.first].pointee
            if now < entry.due, !isOver { break }
            requests.first &+= 1
            if !entry.isSignaled, entry.status == .success { continue }
            completions[from &+ count] = WorkCompletion(
                id: entry.id, status: entry.status, kind: .send, count: entry.count, queuePair: number)
            count &+= 1
        }
        noteReport()
        return count
    }

    /// The lock is held.
    private func noteReport() {
        let next = requests.first == done ? Self.never : requests[requests.first].pointee.due
        reportDue.store(isEnded && next != Self.never ? 0 : next, ordering: .sequentiallyConsistent)
    }
}
