import CLinux
import Fabric
import Kernel

/// One queue pair of a link with its own send completion queue. All threads share it: they post, and poll its completions, under the
/// gate's lock.
final class Port<Device: RDMADevice>: @unchecked Sendable {
    let pair: Held<Device.Pair>
    let gate: CompletionGate<Device.Queue>
    /// Requests that may be posted and not yet known to have completed.
    let depth: Int
    let inlineBytes_max: Int
    /// Scatter list for the request that is being posted. Protected by the gate's lock.
    let elements: UnsafeMutablePointer<ScatterElement>

    // Protected by the gate's lock.
    private var unretired = 0
    private var sinceSignal = 0

    init(pair: Device.Pair, sendQueue: Device.Queue, parameters: QueuePairParameters) {
        self.pair = Held(pair)
        depth = parameters.sendRequests_max
        inlineBytes_max = parameters.inlineBytes_max
        gate = CompletionGate(queue: sendQueue)
        elements = .allocate(capacity: 2)
        elements.initialize(
            repeating: ScatterElement(address: UnsafeMutableRawPointer(elements), count: 0, localKey: 0), count: 2)
    }

    deinit { elements.deallocate() }

    /// Posts. A transfer names its slot, and `isLast` at the end of a portion; a message names none and is signalled now and then,
    /// for the send queue's sake. False when the queue is full: then nothing was posted. The gate's lock is held.
    @inline(__always)
    func postLocked(
        _ request: inout WorkRequest, transfer: Int? = nil, isLast: Bool = false,
        _ transfers: UnsafeMutablePointer<Waiter>
    ) -> Bool {
        if unretired >= depth - 8 {
            drainLocked(transfers)
            if unretired >= depth { return false }
        }
        let isSignaled = isLast || (transfer == nil && sinceSignal >= SendID.signalEvery)
        let id = SendID(transfer: transfer, retires: isSignaled ? sinceSignal + 1 : 0)
        request.id = id.rawValue
        request.isSignaled = isSignaled
        if !pair.lend({ $0.postSend(request) }) {
            drainLocked(transfers)
            if !pair.lend({ $0.postSend(request) }) { return false }
        }
        unretired += 1
        sinceSignal = isSignaled ? 0 : sinceSignal + 1
        return true
    }

    /// Takes the completions of the send queue. The gate's lock is held.
    @inline(__always)
    func drainLocked(_ transfers: UnsafeMutablePointer<Waiter>) {
        gate.drainLocked { complete($0, transfers) }
    }

    /// Accounts for one completion of the send queue. The gate's lock is held.
    @inline(__always)
    func complete(_ completion: WorkCompletion, _ transfers: UnsafeMutablePointer<Waiter>) {
        let id = SendID(rawValue: completion.id)
        unretired -= id.retires
        guard let transfer = id.transfer else { return }
        let waiter = transfers + transfer
        if completion.status != .success, waiter.pointee.status == 0 {
            waiter.pointee.status = Int32(completion.status.rawValue)
        }
        // A failed request that was not the last of its portion: the last one follows, flushed.
        if id.retires == 0 { return }
        waiter.pointee.count = waiter.pointee.count - 1
        if waiter.pointee.count == 0 { gate.finishLocked(waiter, Waiter.State.done) }
    }
}

/// The `id` of a send request.
struct SendID {
    /// A message in as many is signalled.
    static let signalEvery = 15

    var rawValue: UInt64
    @inline(__always)
    init(rawValue: UInt64) { self.rawValue = rawValue }
    @inline(__always)
    init(transfer: Int?, retires: Int) {
        rawValue = UInt64(truncatingIfNeeded: retires) | UInt64(truncatingIfNeeded: (transfer ?? -1) &+ 1) << 16
    }
    /// How many requests have completed when this one has: all since the last signalled one. 0: not signalled.
    @inline(__always)
    var retires: Int { Int(rawValue & 0xffff) }
    @inline(__always)
    var transfer: Int? {
        let number = Int(rawValue >> 16 & 0xffff)
        return number == 0 ? nil : number - 1
    }
}
