import CLinux
import Glibc
import Kernel

/// One attempt to connect, on the caller's thread: TCP to the acceptor's address, its greeting, and then the request
/// over the transport that both can use.
struct Connector {
    let context: SoftContext
    let address: FabricAddress
    let send: SoftCompletionQueue
    let receive: SoftCompletionQueue
    let parameters: QueuePairParameters
    let privateData: [UInt8]
    let deadline: Deadline

    /// nil when the peer has an adapter, and `hasAdapter` says that this side has one too: verbs are the better way
    /// to another host.
    func connect(hasAdapter: Bool = false, _ prepare: (SoftQueuePair) throws(FabricError) -> Void) throws(FabricError)
        -> (SoftQueuePair, privateData: [UInt8])?
    {
        let stream = try Sockets.connect(to: address, until: deadline)
        let bytes = try greeted("receiving the greeting of \(address)") { () throws(KernelError) in
            try Sockets.receive(stream.raw, count: AcceptorGreeting.encodedSize, until: deadline)
        }
        guard let greeting = bytes.withUnsafeBytes({ AcceptorGreeting(decoding: $0) }) else {
            throw .protocolViolation("\(address) is no fabric device of this version")
        }
        if let local = localSocket(greeting) { return try connectShared(greeting, local, prepare) }
        if hasAdapter, greeting.offers & AcceptorGreeting.offersVerbs != 0 { return nil }
        guard context.configuration.transport != .sharedMemory else {
            throw .unreachable(address, reason: "it is not on this host, and only shared memory is allowed")
        }
        guard greeting.offers & AcceptorGreeting.offersTCP != 0 else {
            let allowed =
                greeting.offers & AcceptorGreeting.offersVerbs != 0 ? "verbs" : "shared memory on its own host"
            throw .unreachable(address, reason: "it can be reached by \(allowed) only")
        }
        return try connectStream(greeting, stream, prepare)
    }

    private func connectStream(
        _ greeting: AcceptorGreeting, _ socket: consuming Descriptor,
        _ prepare: (SoftQueuePair) throws(FabricError) -> Void
    ) throws(FabricError) -> (SoftQueuePair, privateData: [UInt8]) {
        let channel = StreamChannel(
            socket: socket, table: context.table.view, configuration: context.configuration)
        let pair = SoftQueuePair(
            context: context, transport: .stream(Held(channel)), send: send, receive: receive, parameters: parameters)
        pair.isPeerOnHost = greeting.host == context.host
        try prepare(pair)
        let posted = pair.receiveQueue.posted
        let request = request(greeting, posted: posted).encoded(PairGreeting.encodedSize)
        let bytes = try greeted("waiting for \(address) to accept") { () throws(KernelError) in
            try Sockets.sendGreeting(channel.socket.raw, request)
            return try Sockets.receive(channel.socket.raw, count: PairGreeting.encodedSize, until: deadline)
        }
        let answer = try checkedAnswer(bytes[...], greeting)
        channel.connect(
            theirRequests: Int(answer.sendRequests_max), peerPosted: answer.posted, advertised: UInt32(posted))
        try pair.join()
        return (pair, answer.privateData)
    }

    /// The acceptor's Unix socket, when shared memory is wanted by both ends and it really is on this host.
    private func localSocket(_ greeting: AcceptorGreeting) -> Descriptor? {
        guard context.configuration.transport != .tcp, greeting.host == context.host,
            greeting.offers & AcceptorGreeting.offersSharedMemory != 0
        else { return nil }
        // Another network name space of this host refuses here: then it is TCP.
        return try? Sockets.connectLocal(greeting.instance)
    }

    private func connectShared(
        _ greeting: AcceptorGreeting, _ control: consuming Descriptor,
        _ prepare: (SoftQueuePair) throws(FabricError) -> Void
    ) throws(FabricError) -> (SoftQueuePair, privateData: [UInt8]) {
        let page: MemoryFile
        do throws(KernelError) {
            let file = try Descriptor(
                checking: "memfd_create", lego_memfd_create_fixed("lego-pair", UInt64(PairPage.fileBytes)))
            page = try MemoryFile(mapping: file, bytes: PairPage.fileBytes)
        } catch {
            throw .system(error)
        }
        let channel = SharedChannel(
            file: page, side: 0, receives: parameters.receiveRequests_max, table: context.table.view)
        let pair = SoftQueuePair(
            context: context, transport: .shared(Held(channel)), send: send, receive: receive, parameters: parameters)
        try prepare(pair)
        let request = request(greeting, posted: pair.receiveQueue.posted).encoded(PairGreeting.encodedSize)
        let descriptors = [page.descriptor] + SharedOffer.descriptors(context, receive: receive)
        let sent = lego_send_descriptors(control.raw, request, request.count, descriptors, descriptors.count)
        if sent < 0 { throw .system(KernelError("sendmsg", Int32(-sent))) }

        var bytes = [UInt8](repeating: 0, count: PairGreeting.encodedSize + 1)
        var packet = try awaitPacket(control.raw, &bytes)
        let answer = try checkedAnswer(bytes.prefix(packet.count), greeting)
        guard let offer = SharedOffer(&packet, from: 0, instance: answer.instance) else {
            throw .protocolViolation("an answer without its memory files")
        }
        channel.connect(
            try offer.open(context), control: control, theirReceives: Int(answer.receiveRequests_max))
        try pair.join()
        return (pair, answer.privateData)
    }

    private func request(_ greeting: AcceptorGreeting, posted: Int) -> PairGreeting {
        PairGreeting(
            kind: .request, nonce: greeting.nonce, instance: context.instance,
            receiveRequests_max: UInt32(parameters.receiveRequests_max),
            sendRequests_max: UInt32(parameters.sendRequests_max), posted: UInt32(posted), privateData: privateData)
    }

    private func awaitPacket(_ control: Int32, _ bytes: inout [UInt8]) throws(FabricError) -> ReceivedPacket {
        while true {
            let packet = ReceivedPacket(from: control, into: &bytes)
            switch packet.outcome {
            case .packet: return packet
            case .endOfStream: throw .unreachable(address, reason: "it closed the connection")
            case .none: break
            }
            try greeted("waiting for \(address) to accept") { () throws(KernelError) in
                try Sockets.wait(for: control, Int16(POLLIN), until: deadline, "connect")
            }
        }
    }

    private func checkedAnswer(_ bytes: ArraySlice<UInt8>, _ greeting: AcceptorGreeting) throws(FabricError)
        -> PairGreeting
    {
        guard let answer = bytes.withUnsafeBytes({ PairGreeting(decoding: $0) }), answer.nonce == greeting.nonce,
            answer.instance == greeting.instance, answer.kind != .request
        else { throw .protocolViolation("\(address) answers with something else") }
        if answer.kind == .rejected { throw .unreachable(address, reason: "it refused the connection") }
        return answer
    }

    /// Runs a step of the greeting; its failures as the operator should see them.
    private func greeted<Value>(_ what: String, _ body: () throws(KernelError) -> Value) throws(FabricError) -> Value {
        do throws(KernelError) {
            return try body()
        } catch {
            if error.number == ETIMEDOUT { throw .timedOut(what) }
            throw .unreachable(address, reason: error.description)
        }
    }
}
