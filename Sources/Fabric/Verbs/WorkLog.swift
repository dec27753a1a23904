import CVerbs
import Synchronization

/// What a queue pair remembers of its posted work: an adapter answers little more than the request's number when it has
/// failed, and nothing for requests without a signal. Requests complete in order, so that one completion retires all
/// before it.
final class WorkLog: @unchecked Sendable {
    /// A request's number in the adapter: whose it is, which queue, and which one.
    struct Number {
        static let receiveBit: UInt64 = 1 << 63
        static let indexShift: UInt64 = 48
        static let sequenceMask: UInt64 = 1 << 40 - 1
        static let generationShift: UInt64 = 40

        let raw: UInt64
        var isReceive: Bool { raw & Self.receiveBit != 0 }
        var index: Int { Int(raw >> Self.indexShift & 0x7fff) }
        var generation: UInt8 { UInt8(truncatingIfNeeded: raw >> Self.generationShift) }
        var sequence: UInt64 { raw & Self.sequenceMask }
    }

    private struct Sent {
        var id: UInt64
        var opcode: WorkOpcode
        var isSignaled: Bool
        /// How the request fails if it was at fault when it was posted, else `.success`.
        var verdict: WorkStatus
    }

    let index: Int
    /// Tells a completion of a former pair in the same place from this one's.
    private let generation = UInt8.random(in: 0...255)
    private let sendCapacity: Int
    private let receiveCapacity: Int
    private let sent: UnsafeMutablePointer<Sent>
    private let received: UnsafeMutablePointer<UInt64>
    // The tails are the posters', the heads the pollers'.
    private var sendTail: UInt64 = 0
    private var receiveTail: UInt64 = 0
    private let sendHead = Atomic<UInt64>(0)
    private let receiveHead = Atomic<UInt64>(0)
    /// Requests since the last one with a signal; the poster's.
    private var unsignaled = 0
    /// Ends the connection. Set once, before the first request is posted.
    var onFailure: (@Sendable () -> Void)?

    init(index: Int, _ parameters: QueuePairParameters) {
        self.index = index
        sendCapacity = parameters.sendRequests_max
        receiveCapacity = parameters.receiveRequests_max
        sent = .allocate(capacity: sendCapacity)
        received = .allocate(capacity: receiveCapacity)
    }

    deinit {
        sent.deallocate()
        received.deallocate()
    }

    private func number(_ sequence: UInt64, _ flag: UInt64) -> UInt64 {
        flag | UInt64(index) << Number.indexShift | UInt64(generation) << Number.generationShift
            | sequence & Number.sequenceMask
    }

    // MARK: Posting

    /// The next send request's slot, 0 up to the queue's capacity; nil when the queue is full.
    var nextSendSlot: Int? {
        guard sendTail &- sendHead.load(ordering: .acquiring) < UInt64(sendCapacity) else { return nil }
        return Int(sendTail % UInt64(sendCapacity))
    }

    /// Notes a request in the slot; answers its number and whether the adapter must signal it: also every so many
    /// requests for this log's own sake, so that the queue never fills up with requests that nobody hears of.
    func noteSend(_ request: borrowing WorkRequest, slot: Int, verdict: WorkStatus) -> (number: UInt64, signal: Bool) {
        let isSignaled = request.isSignaled
        sent[slot] = Sent(id: request.id, opcode: request.opcode, isSignaled: isSignaled, verdict: verdict)
        unsignaled += 1
        let needsSignal = isSignaled || unsignaled >= max(1, sendCapacity / 4)
        return (number(sendTail, 0), needsSignal)
    }

    /// The noted request has been posted.
    func commitSend(signaled: Bool) {
        if signaled { unsignaled = 0 }
        sendTail &+= 1
    }

    /// Notes a receive; nil when the queue is full.
    func noteReceive(_ id: UInt64) -> UInt64? {
        guard receiveTail &- receiveHead.load(ordering: .acquiring) < UInt64(receiveCapacity) else { return nil }
        received[Int(receiveTail % UInt64(receiveCapacity))] = id
        return number(receiveTail, Number.receiveBit)
    }

    func commitReceive() { receiveTail &+= 1 }

    // MARK: Completion

    /// What an adapter's completion means; nil when nobody asked to hear of it.
    func completion(_ entry: ibv_wc, _ number: Number) -> WorkCompletion? {
        guard number.generation == generation else { return nil }
        let isSuccess = entry.status == IBV_WC_SUCCESS
        if number.isReceive {
            let head = receiveHead.load(ordering: .relaxed)
            let position = head &+ ((number.sequence &- head) & Number.sequenceMask)
            let id = received[Int(position % UInt64(receiveCapacity))]
            receiveHead.store(position &+ 1, ordering: .releasing)
            let isImmediate = isSuccess && entry.opcode == IBV_WC_RECV_RDMA_WITH_IMM
            return WorkCompletion(
                id: id, status: status(entry.status, nil), kind: isImmediate ? .receiveImmediate : .receive,
                count: entry.byte_len, immediate: isImmediate ? UInt32(bigEndian: entry.imm_data) : 0,
                queuePair: entry.qp_num)
        }
        let head = sendHead.load(ordering: .relaxed)
        let position = head &+ ((number.sequence &- head) & Number.sequenceMask)
        let request = sent[Int(position % UInt64(sendCapacity))]
        sendHead.store(position &+ 1, ordering: .releasing)
        if isSuccess, !request.isSignaled { return nil }
        var status = status(entry.status, request.opcode)
        if request.verdict != .success { status = request.verdict }
        return WorkCompletion(
            id: request.id, status: status, kind: .send, count: entry.byte_len, queuePair: entry.qp_num)
    }

    /// A request has failed: as with any adapter, the connection is at its end.
    func fail() { onFailure?() }

    /// `opcode` is nil for a receive.
    private func status(_ status: ibv_wc_status, _ opcode: WorkOpcode?) -> WorkStatus {
        switch status {
        case IBV_WC_SUCCESS: .success
        // So does Soft-RoCE say that a message is longer than the receive.
        case IBV_WC_LOC_QP_OP_ERR where opcode == nil: .localLength
        case IBV_WC_LOC_PROT_ERR, IBV_WC_LOC_QP_OP_ERR, IBV_WC_LOC_ACCESS_ERR: .localProtection
        case IBV_WC_LOC_LEN_ERR: .localLength
        case IBV_WC_REM_ACCESS_ERR: .remoteAccess
        // So do adapters answer an atomic on a misaligned word.
        case IBV_WC_REM_INV_REQ_ERR where opcode == .fetchAdd || opcode == .compareSwap: .remoteAccess
        case IBV_WC_RNR_RETRY_EXC_ERR: .receiverNotReady
        case IBV_WC_RETRY_EXC_ERR, IBV_WC_RESP_TIMEOUT_ERR: .retryExceeded
        case IBV_WC_WR_FLUSH_ERR: .flushed
        default: .remoteOperation
        }
    }
}
