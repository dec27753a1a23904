import CLinux
import Glibc
import Kernel
import Synchronization

/// A peer that wants a queue pair with this device. Rejected when it is dropped unanswered.
public final class SoftConnectionRequest: ConnectionRequest, @unchecked Sendable {
    /// What the peer gave; taken by the first answer.
    private struct Material: ~Copyable {
        /// The socket that the answer goes to.
        let socket: Descriptor
        /// Nil over TCP.
        var shared: Shared?
    }
    private struct Shared: ~Copyable {
        let page: Descriptor
        let offer: SharedOffer
    }

    private let context: SoftContext
    private let greeting: PairGreeting
    private let material: Mutex<Material?>

    /// A request over shared memory.
    init(
        context: SoftContext, greeting: PairGreeting, control: consuming Descriptor, page: consuming Descriptor,
        offer: consuming SharedOffer
    ) {
        self.context = context
        self.greeting = greeting
        material = Mutex(Material(socket: control, shared: Shared(page: page, offer: offer)))
    }

    /// A request over TCP.
    init(context: SoftContext, greeting: PairGreeting, stream: consuming Descriptor) {
        self.context = context
        self.greeting = greeting
        material = Mutex(Material(socket: stream, shared: nil))
    }

    deinit { reject() }

    public var privateData: [UInt8] { greeting.privateData }

    public func accept(
        send: SoftCompletionQueue, receive: SoftCompletionQueue, parameters: QueuePairParameters, privateData: [UInt8],
        prepare: (SoftQueuePair) throws(FabricError) -> Void
    ) throws(FabricError) -> SoftQueuePair {
        try parameters.check(privateData: privateData)
        guard var material = material.withLock({ $0.take() }) else {
            throw .invalid("a second answer to a connection request: it is answered once")
        }
        guard let shared = material.shared.take() else {
            return try acceptStream(material.socket, send, receive, parameters, privateData, prepare)
        }
        let page = try SharedFile.map(shared.page, bytes: PairPage.fileBytes)
        let channel = SharedChannel(
            file: page, side: 1, receives: parameters.receiveRequests_max, table: context.table.view)
        let remote = try shared.offer.open(context)
        let pair = SoftQueuePair(
            context: context, transport: .shared(Held(channel)), send: send, receive: receive, parameters: parameters)
        try prepare(pair)
        let raw = material.socket.raw
        channel.connect(remote, control: material.socket, theirReceives: Int(greeting.receiveRequests_max))
        let answer = answer(.accepted, parameters, posted: pair.receiveQueue.posted, privateData)
        let descriptors = SharedOffer.descriptors(context, receive: receive)
        let result = lego_send_descriptors(raw, answer, answer.count, descriptors, descriptors.count)
        if result < 0 { throw .system(KernelError("sendmsg", Int32(-result))) }
        try pair.join()
        return pair
    }

    private func acceptStream(
        _ socket: consuming Descriptor, _ send: SoftCompletionQueue, _ receive: SoftCompletionQueue,
        _ parameters: QueuePairParameters, _ privateData: [UInt8],
        _ prepare: (SoftQueuePair) throws(FabricError) -> Void
    ) throws(FabricError) -> SoftQueuePair {
        let channel = StreamChannel(
            socket: socket, table: context.table.view, configuration: context.configuration)
        let pair = SoftQueuePair(
            context: context, transport: .stream(Held(channel)), send: send, receive: receive, parameters: parameters)
        try prepare(pair)
        let posted = pair.receiveQueue.posted
        channel.connect(
            theirRequests: Int(greeting.sendRequests_max), peerPosted: greeting.posted, advertised: UInt32(posted))
        do throws(KernelError) {
            try Sockets.sendGreeting(channel.socket.raw, answer(.accepted, parameters, posted: posted, privateData))
        } catch {
            throw .system(error)
        }
        try pair.join()
        return pair
    }

    public func reject() {
        guard let material = material.withLock({ $0.take() }) else { return }
        let answer = answer(.rejected, QueuePairParameters(), posted: 0, [])
        try? Sockets.sendGreeting(material.socket.raw, answer)
    }

    private func answer(
        _ kind: PairGreeting.Kind, _ parameters: QueuePairParameters, posted: Int, _ privateData: [UInt8]
    ) -> [UInt8] {
        PairGreeting(
            kind: kind, nonce: greeting.nonce, instance: context.instance,
            receiveRequests_max: UInt32(parameters.receiveRequests_max),
            sendRequests_max: UInt32(parameters.sendRequests_max), posted: UInt32(posted), privateData: privateData
        ).encoded(PairGreeting.encodedSize)
    }
}

extension QueuePairParameters {
    /// Refuses what a soft device cannot give.
    func check(privateData: [UInt8]) throws(FabricError) {
        let requests = 1...SoftLimits.requests_max
        guard requests.contains(sendRequests_max) else {
            throw outOfRange("sendRequests_max", sendRequests_max, requests)
        }
        guard requests.contains(receiveRequests_max) else {
            throw outOfRange("receiveRequests_max", receiveRequests_max, requests)
        }
        let elements = 1...SoftLimits.scatterElements_max
        guard elements.contains(scatterElements_max) else {
            throw outOfRange("scatterElements_max", scatterElements_max, elements)
        }
        let inline = 0...SoftLimits.inlineBytes_max
        guard inline.contains(inlineBytes_max) else { throw outOfRange("inlineBytes_max", inlineBytes_max, inline) }
        guard privateData.count <= SoftLimits.privateData_max else {
            throw outOfRange("private data", privateData.count, 0...SoftLimits.privateData_max)
        }
    }

    private func outOfRange(_ what: String, _ value: Int, _ allowed: ClosedRange<Int>) -> FabricError {
        .invalid("\(what) of \(value) is out of range: \(allowed.lowerBound) to \(allowed.upperBound)")
    }
}
