import CLinux
import Glibc
import Kernel
import Synchronization

/// A peer that wants a queue pair with this device. Rejected when it is dropped unanswered.
public final class SoftConnectionRequest: ConnectionRequest, @unchecked Sendable {
    /// What the peer gave; taken by the first answer.
    private struct Material: ~Copyable {
        let control: Descriptor
        let page: Descriptor
        let offer: SharedOffer
    }

    private let context: SoftContext
    private let greeting: PairGreeting
    private let material: Mutex<Material?>

    init(
        context: SoftContext, greeting: PairGreeting, control: consuming Descriptor, page: consuming Descriptor,
        offer: consuming SharedOffer
    ) {
        self.context = context
        self.greeting = greeting
        material = Mutex(Material(control: control, page: page, offer: offer))
    }

    deinit { reject() }

    public var privateData: [UInt8] { greeting.privateData }

    public func accept(
        send: SoftCompletionQueue, receive: SoftCompletionQueue, parameters: QueuePairParameters, privateData: [UInt8],
        prepare: (SoftQueuePair) throws(FabricError) -> Void
    ) throws(FabricError) -> SoftQueuePair {
        try parameters.check(privateData: privateData)
        guard let material = material.withLock({ $0.take() }) else {
            throw .invalid("a second answer to a connection request: it is answered once")
        }
        let page = try SharedFile.map(material.page, bytes: PairPage.fileBytes)
        let channel = SharedChannel(
            file: page, side: 1, receives: parameters.receiveRequests_max, table: context.table.view)
        channel.connect(try material.offer.open(context), theirReceives: Int(greeting.receiveRequests_max))
        let pair = SoftQueuePair(
            context: context, number: context.takeNumber(), channel: channel, send: send, receive: receive,
            parameters: parameters)
        try prepare(pair)
        try answer(
            material.control.raw, .accepted, parameters, privateData, SharedOffer.descriptors(context, receive: receive)
        )
        try pair.join(control: material.control)
        return pair
    }

    public func reject() {
        guard let material = material.withLock({ $0.take() }) else { return }
        try? answer(material.control.raw, .rejected, QueuePairParameters(), [], [])
    }

    private func answer(
        _ control: Int32, _ kind: PairGreeting.Kind, _ parameters: QueuePairParameters, _ privateData: [UInt8],
        _ descriptors: [Int32]
    ) throws(FabricError) {
        let answer = PairGreeting(
            kind: kind, nonce: greeting.nonce, instance: context.instance,
            receiveRequests_max: UInt32(parameters.receiveRequests_max),
            sendRequests_max: UInt32(parameters.sendRequests_max), posted: 0, privateData: privateData)
        let bytes = answer.encoded(PairGreeting.encodedSize)
        let result = lego_send_descriptors(control, bytes, bytes.count, descriptors, descriptors.count)
        if result < 0 { throw .system(KernelError("sendmsg", Int32(-result))) }
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
