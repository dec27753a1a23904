import CLinux
import CRdmaCM
import CVerbs
import Glibc
import Kernel
import Synchronization

/// A peer that wants a queue pair with this adapter. Rejected when it is dropped unanswered.
public final class VerbsConnectionRequest: ConnectionRequest, @unchecked Sendable {
    public let privateData: [UInt8]
    private let manager: ConnectionManager
    private let event: ConnectionEvent
    var identifier: ConnectionManager.Identifier { event.identifier }
    private let isAnswered = Atomic<Bool>(false)

    init(manager: ConnectionManager, event: ConnectionEvent) {
        self.manager = manager
        self.event = event
        privateData = event.privateData
    }

    deinit { reject() }

    public func accept(
        send: VerbsCompletionQueue, receive: VerbsCompletionQueue, parameters: QueuePairParameters,
        privateData: [UInt8], prepare: (VerbsQueuePair) throws(FabricError) -> Void
    ) throws(FabricError) -> VerbsQueuePair {
        try parameters.check(privateData: privateData)
        if isAnswered.exchange(true, ordering: .sequentiallyConsistent) {
            throw .invalid("a second answer to a connection request: it is answered once")
        }
        let pair: VerbsQueuePair
        do throws(FabricError) {
            pair = try VerbsQueuePair(
                context: manager.context, manager: manager, identifier: event.identifier, send: send, receive: receive,
                parameters: parameters)
        } catch {
            rdma_reject(event.identifier, nil, 0)
            rdma_destroy_id(event.identifier)
            throw error
        }
        // From here the pair's end destroys the identifier, which also refuses a request that is still open.
        try prepare(pair)
        guard manager.add(pair) else { throw .invalid("a connection of a closed device: none can be made") }
        let limits = manager.context.limits
        let result = privateData.withUnsafeBytes { bytes in
            var answer = rdma_conn_param()
            answer.private_data = bytes.baseAddress
            answer.private_data_len = UInt8(bytes.count)
            answer.responder_resources = min(event.responderResources, UInt8(clamping: limits.max_qp_rd_atom))
            answer.initiator_depth = min(event.initiatorDepth, UInt8(clamping: limits.max_qp_init_rd_atom))
            answer.rnr_retry_count = VerbsConnector.receiverNotReadyRetries
            return rdma_accept(event.identifier, &answer)
        }
        if result != 0 { throw .system(KernelError("rdma_accept")) }
        // The pair can send and receive. Whether the initiator still wants it shows later, without holding up others.
        pair.becomeConnected()
        return pair
    }

    public func reject() {
        if isAnswered.exchange(true, ordering: .sequentiallyConsistent) { return }
        rdma_reject(event.identifier, nil, 0)
        rdma_destroy_id(event.identifier)
    }
}
