import CLinux
import CRdmaCM
import CVerbs
import Glibc
import Kernel
import Synchronization

/// A reliable-connected queue pair of an adapter.
public final class VerbsQueuePair: QueuePair, @unchecked Sendable {
    public typealias Region = VerbsRegion

    enum State: UInt32 {
        case connecting = 0
        case connected = 1
        case broken = 2
    }

    public let number: UInt32
    public var link: LinkKind { .verbs }
    let identifier: UnsafeMutablePointer<rdma_cm_id>
    let manager: ConnectionManager
    private let context: VerbsContext
    private let pair: UnsafeMutablePointer<ibv_qp>
    private let log: WorkLog
    private let send: VerbsCompletionQueue
    private let receive: VerbsCompletionQueue
    private let elements_max: Int
    private let inline_max: Int
    /// Where the adapter copies fewer bytes inline than were asked for: registered memory that takes the copies.
    private let bounce: VerbsRegion?
    /// A `State`.
    let state: UnsafeMutablePointer<UInt32>
    /// The initiator has confirmed the connection. An acceptor may use it before, but cannot tear it down.
    let isEstablished = Atomic<Bool>(false)
    /// The connection manager's thread has torn the connection down.
    let isTornDown = Atomic<Bool>(false)

    /// Takes over `identifier`, which must be bound to the context's adapter; on failure it stays the caller's.
    init(
        context: VerbsContext, manager: ConnectionManager, identifier: UnsafeMutablePointer<rdma_cm_id>,
        send: VerbsCompletionQueue, receive: VerbsCompletionQueue, parameters: QueuePairParameters
    ) throws(FabricError) {
        var attributes = ibv_qp_init_attr()
        attributes.send_cq = send.queue
        attributes.recv_cq = receive.queue
        attributes.qp_type = IBV_QPT_RC
        attributes.cap.max_send_wr = UInt32(parameters.sendRequests_max)
        attributes.cap.max_recv_wr = UInt32(parameters.receiveRequests_max)
        attributes.cap.max_send_sge = UInt32(parameters.scatterElements_max)
        attributes.cap.max_recv_sge = UInt32(parameters.scatterElements_max)
        attributes.cap.max_inline_data = UInt32(parameters.inlineBytes_max)
        let wanted = attributes
        var result = rdma_create_qp(identifier, context.domain, &attributes)
        if result != 0, errno == EINVAL {
            // Adapters differ most in how much they send inline.
            attributes = wanted
            attributes.cap.max_inline_data = 0
            result = rdma_create_qp(identifier, context.domain, &attributes)
        }
        guard result == 0, let made = identifier.pointee.qp else { throw .system(KernelError("rdma_create_qp")) }
        var bounce: VerbsRegion?
        do throws(FabricError) {
            if Int(attributes.cap.max_inline_data) < parameters.inlineBytes_max {
                bounce = try .allocate(
                    context, bytes: parameters.sendRequests_max * parameters.inlineBytes_max, access: [])
            }
            guard let log = context.addLog(parameters) else {
                throw .invalid("another queue pair: a device has at most \(VerbsContext.pairs_max)")
            }
            self.log = log
        } catch {
            rdma_destroy_qp(identifier)
            throw error
        }
        self.context = context
        self.manager = manager
        self.identifier = identifier
        self.send = send
        self.receive = receive
        self.bounce = bounce
        pair = made
        number = made.pointee.qp_num
        elements_max = parameters.scatterElements_max
        inline_max = parameters.inlineBytes_max
        state = .allocate(capacity: 1)
        state.initialize(to: State.connecting.rawValue)
        log.onFailure = { [weak self] in self?.disconnect() }
    }

    deinit {
        rdma_destroy_qp(identifier)
        let (context, log, receive) = (context, log, receive)
        // The adapter adds no completion any more; polls that are turning old ones into ours are waited for.
        send.whileNotPolled {
            if receive === send { context.removeLog(log) } else { receive.whileNotPolled { context.removeLog(log) } }
        }
        manager.forget(identifier)
        rdma_destroy_id(identifier)
        state.deallocate()
    }

    var isConnecting: Bool { lego_atomic_load_u32(state) == State.connecting.rawValue }

    public var isConnected: Bool { lego_atomic_load_u32(state) == State.connected.rawValue }

    /// Cost: that of ibv_post_send.
    public func postSend(_ request: borrowing WorkRequest) -> Bool {
        guard lego_atomic_load_u32(state) != State.connecting.rawValue, let slot = log.nextSendSlot else {
            return false
        }
        let verdict = verdict(request)
        if verdict != .success { return postFault(request, verdict, slot: slot) }
        let request = copy request
        let result = withUnsafeTemporaryAllocation(of: ibv_sge.self, capacity: elements_max) { list in
            var count = Self.fill(list, request.local)
            var flags: UInt32 = 0
            if request.isInline {
                if let bounce {
                    count = copy(list, count, to: bounce, slot: slot)
                } else {
                    flags |= IBV_SEND_INLINE.rawValue
                }
            }
            let (number, signal) = log.noteSend(request, slot: slot, verdict: .success)
            if signal { flags |= IBV_SEND_SIGNALED.rawValue }
            var work = ibv_send_wr()
            work.wr_id = number
            work.sg_list = list.baseAddress
            work.num_sge = Int32(count)
            work.send_flags = flags
            describe(request, &work)
            var refused: UnsafeMutablePointer<ibv_send_wr>?
            let result = ibv_post_send(pair, &work, &refused)
            if result == 0 { log.commitSend(signaled: signal) }
            return result
        }
        if result == 0 { return true }
        // The queue is full, or the adapter finds a fault of its own.
        return result == ENOMEM ? false : postFault(request, .localProtection, slot: slot)
    }

    /// What is wrong with a request, as any adapter has it; some refuse to take such requests at all.
    private func verdict(_ request: borrowing WorkRequest) -> WorkStatus {
        let local = request.local
        if local.count > elements_max { return .localProtection }
        var total = 0
        for element in local { total &+= Int(element.count) }
        if total > VerbsContext.messageBytes_max { return .localLength }
        switch request.opcode {
        case .fetchAdd, .compareSwap:
            if total != 8 || local.count != 1 { return .localLength }
            return request.remoteAddress & 7 == 0 ? .success : .remoteAccess
        case .read: return request.isInline ? .localLength : .success
        case .send, .write, .writeWithImmediate:
            return request.isInline && total > inline_max ? .localLength : .success
        }
    }

    /// Posts, in place of a request that is at fault, one that fails in this adapter: what follows it is flushed and
    /// the connection ends, as with every failed request.
    private func postFault(_ request: borrowing WorkRequest, _ verdict: WorkStatus, slot: Int) -> Bool {
        // On a connection that has ended already it is flushed like any other.
        let verdict = isConnected ? verdict : .success
        let (number, _) = log.noteSend(request, slot: slot, verdict: verdict)
        var nowhere = ibv_sge(addr: 0, length: 1, lkey: 0)
        var work = ibv_send_wr()
        work.wr_id = number
        work.opcode = IBV_WR_RDMA_WRITE
        work.send_flags = IBV_SEND_SIGNALED.rawValue
        work.num_sge = 1
        var refused: UnsafeMutablePointer<ibv_send_wr>?
        let result = withUnsafeMutablePointer(to: &nowhere) { list in
            work.sg_list = list
            return ibv_post_send(pair, &work, &refused)
        }
        if result != 0 { return false }
        log.commitSend(signaled: true)
        return true
    }

    private func describe(_ request: borrowing WorkRequest, _ work: inout ibv_send_wr) {
        switch request.opcode {
        case .send: work.opcode = IBV_WR_SEND
        case .write, .read, .writeWithImmediate:
            work.opcode =
                switch request.opcode {
                case .read: IBV_WR_RDMA_READ
                case .write: IBV_WR_RDMA_WRITE
                default: IBV_WR_RDMA_WRITE_WITH_IMM
                }
            work.imm_data = request.immediate.bigEndian
            work.wr.rdma.remote_addr = request.remoteAddress
            work.wr.rdma.rkey = request.remoteKey
        case .fetchAdd, .compareSwap:
            work.opcode = request.opcode == .fetchAdd ? IBV_WR_ATOMIC_FETCH_AND_ADD : IBV_WR_ATOMIC_CMP_AND_SWP
            work.wr.atomic.remote_addr = request.remoteAddress
            work.wr.atomic.rkey = request.remoteKey
            work.wr.atomic.compare_add = request.operand
            work.wr.atomic.swap = request.swap
        }
    }

    /// Translates a scatter list; empty elements are left out, since a length of 0 means 2 GiB to an adapter.
    private static func fill(
        _ list: UnsafeMutableBufferPointer<ibv_sge>, _ local: UnsafeBufferPointer<ScatterElement>
    ) -> Int {
        var count = 0
        for element in local where element.count > 0 {
            list[count] = ibv_sge(
                addr: UInt64(UInt(bitPattern: element.address)), length: element.count, lkey: element.localKey)
            count += 1
        }
        return count
    }

    /// Gathers inline bytes, which fit, in the slot's place of the bounce memory; answers the elements left.
    private func copy(
        _ list: UnsafeMutableBufferPointer<ibv_sge>, _ count: Int, to bounce: VerbsRegion, slot: Int
    ) -> Int {
        let place = bounce.base + slot * inline_max
        var filled = 0
        for index in 0..<count {
            guard let from = UnsafeRawPointer(bitPattern: UInt(list[index].addr)) else { continue }
            memcpy(place + filled, from, Int(list[index].length))
            filled += Int(list[index].length)
        }
        if filled == 0 { return 0 }
        list[0] = ibv_sge(addr: UInt64(UInt(bitPattern: place)), length: UInt32(filled), lkey: bounce.localKey)
        return 1
    }

    public func postReceive(id: UInt64, local: UnsafeBufferPointer<ScatterElement>) -> Bool {
        guard local.count <= elements_max, let number = log.noteReceive(id) else { return false }
        return withUnsafeTemporaryAllocation(of: ibv_sge.self, capacity: elements_max) { list in
            var work = ibv_recv_wr()
            work.wr_id = number
            work.num_sge = Int32(Self.fill(list, local))
            work.sg_list = list.baseAddress
            var refused: UnsafeMutablePointer<ibv_recv_wr>?
            guard ibv_post_recv(pair, &work, &refused) == 0 else { return false }
            log.commitReceive()
            // Soft-RoCE looks at receives only when something happens; either this sees the end of the connection, or
            // the flush that follows the end sees the receive.
            lego_atomic_fence()
            if lego_atomic_load_u32(state) == State.broken.rawValue { flush() }
            return true
        }
    }

    public func disconnect() {
        if lego_atomic_exchange_u32(state, State.broken.rawValue) == State.broken.rawValue { return }
        // Refuses the peer at once; the connection manager's thread then tells it.
        flush()
        manager.wake()
    }

    /// Puts the pair into its error state, in which all that is posted is flushed.
    private func flush() {
        var attributes = ibv_qp_attr()
        attributes.qp_state = IBV_QPS_ERR
        ibv_modify_qp(pair, &attributes, Int32(IBV_QP_STATE.rawValue))
    }

    /// Both sides have agreed.
    func becomeConnected() {
        var attributes = ibv_qp_attr()
        // 82 ms between a sender's attempts while no receive is posted; with 6 repetitions it gives up after half a
        // second.
        attributes.min_rnr_timer = 26
        ibv_modify_qp(pair, &attributes, Int32(IBV_QP_MIN_RNR_TIMER.rawValue))
        var expected = State.connecting.rawValue
        _ = lego_atomic_compare_exchange_u32(state, &expected, State.connected.rawValue)
    }
}
