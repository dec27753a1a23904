import CLinux
import Fabric
import Kernel
import Synchronization
import Wire

extension LiteNode {
    /// Connects to the node at `address`, or answers the peer when it is connected already. Connecting to oneself is refused as
    /// `invalid`: a node reaches its own pool and functions directly.
    public func connect(to address: FabricAddress, until deadline: Deadline) throws(LiteError) -> LitePeer {
        while true {
            let present = try membership.withLock { membership throws(LiteError) -> LitePeer? in
                if !membership.isStarted || membership.isClosing {
                    throw .invalid("the node \(configuration.name) is not running: connect between start and close")
                }
                return membership.addresses[address].flatMap { membership.peer($0) }
            }
            if let present { return present }
            let seen = lego_atomic_load_u32(changes)
            if let peer = try attempt(address, until: deadline) {
                membership.withLock { membership in
                    if membership.peer(peer.id) != nil { membership.addresses[address] = peer.id }
                }
                return peer
            }
            // The peer knows of a connection that this side does not have, or not yet: it is being set up, or its end has not been
            // noticed there.
            if deadline.hasPassed { throw .fabric(.timedOut("agreeing on the connection to \(address)")) }
            let soon = Deadline.after(.milliseconds(5))
            Futex.wait(changes, while: seen, until: min(soon, deadline))
        }
    }

    /// Sets a link up and asks the peer to join it. nil when the peer has another one with this node.
    private func attempt(_ address: FabricAddress, until deadline: Deadline) throws(LiteError) -> LitePeer? {
        let link = try makeLink(isInitiator: true, layout)
        do throws(LiteError) {
            var pair = 0
            repeat {
                try connectPair(pair, link, address, until: deadline)
                pair += 1
            } while pair < link.pairCount
            if try joinAsInitiator(link, address, until: deadline) {
                startModel(link)
                return membership.withLock { $0.peer(link.remoteNode) }
            }
        } catch {
            fail(link)
            throw error
        }
        fail(link)
        return membership.withLock { $0.peer(link.remoteNode) }
    }

    /// A link that is in the table. The caller fails it if it does not come to be joined.
    private func makeLink(isInitiator: Bool, _ layout: MessageLayout) throws(LiteError) -> Link<Device> {
        // Before memory is registered for nothing.
        _ = try membership.withLock { (membership) throws(LiteError) in try freePlace(in: &membership) }
        let messages: Link<Device>.Messages
        do throws(FabricError) {
            messages = try Link.Messages(layout, of: device)
        } catch { throw .fabric(error) }
        return try membership.withLock { membership throws(LiteError) -> Link<Device> in
            let place = try freePlace(in: &membership)
            let link = Link(
                owner: ObjectIdentifier(self), index: place.index, generation: place.generation,
                isInitiator: isInitiator, configuration: configuration, messages: messages)
            membership.links[place.index] = link
            let entry = UInt(bitPattern: Unmanaged.passUnretained(link).toOpaque())
            lego_atomic_store_u64(table + place.index, UInt64(entry))
            return link
        }
    }

    private func freePlace(
        in membership: inout Membership<Device>
    ) throws(LiteError) -> (index: Int, generation: UInt32) {
        if membership.isClosing { throw .invalid("the node \(configuration.name) is closing") }
        guard let place = membership.reserve() else {
            throw .invalid(
                "the node \(configuration.name) has \(configuration.peers_max) peers: peers_max allows no more")
        }
        return place
    }

    // MARK: Initiator

    private func connectPair(_ pair: Int, _ link: Link<Device>, _ address: FabricAddress, until deadline: Deadline)
        throws(LiteError)
    {
        let answer: [UInt8]
        let kind: LinkKind
        do throws(FabricError) {
            let sendQueue = try device.makeCompletionQueue(capacity: parameters.sendRequests_max + 16)
            let connected = try device.connect(
                to: address, send: sendQueue, receive: receiveQueue(link, pair), parameters: parameters,
                privateData: greeting(pair, link).encode(), until: deadline,
                prepare: { (queuePair) throws(FabricError) in try install(queuePair, sendQueue, link, pair) })
            answer = connected.privateData
            kind = connected.0.link
            endIfLost(connected.0, link)
        } catch { throw .fabric(error) }
        let greeting = try understand(answer, address)
        if pair > 0 { return }
        membership.withLock { _ in link.adopt(greeting, link: kind) }
    }

    /// Decodes what the acceptor answered.
    private func understand(_ bytes: [UInt8], _ address: FabricAddress) throws(LiteError) -> Greeting {
        let greeting: Greeting
        do throws(Greeting.Fault) {
            greeting = try Greeting(decoding: bytes)
        } catch {
            switch error {
            case .notLite: throw .incompatiblePeer("\(address) does not answer as a Lite node")
            case .otherVersion(let version):
                throw .incompatiblePeer("\(address) speaks version \(version), this node \(Greeting.version)")
            case .malformed: throw .incompatiblePeer("\(address) answers with sizes out of range")
            }
        }
        switch greeting.verdict {
        case .ok: return greeting
        case .version:
            throw .incompatiblePeer("\(address) does not speak version \(Greeting.version)")
        case .oneself:
            throw .invalid("\(address) is this node itself: use its pool and functions directly")
        case .full: throw .fabric(.unreachable(address, reason: "it has as many peers as it allows"))
        case .closing: throw .fabric(.unreachable(address, reason: "it is shutting down"))
        }
    }

    /// Asks the peer to join the link. False when there is another link with it.
    private func joinAsInitiator(_ link: Link<Device>, _ address: FabricAddress, until deadline: Deadline)
        throws(LiteError) -> Bool
    {
        let node = link.remoteNode
        let asks = membership.withLock { membership in
            if membership.established[node] != nil || membership.joining[node] != nil || link.isLost { return false }
            membership.joining[node] = link
            return true
        }
        if !asks { return false }
        let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
        let result = call(link, 0, nothing, UnsafeMutableRawBufferPointer(start: nil, count: 0), until: deadline)
        let isJoined = membership.withLock { membership in
            if membership.joining[node] === link { membership.joining[node] = nil }
            // A call by the peer may have shown already that it has joined.
            if result.status == .ok, !link.isLost, membership.established[node] == nil { membership.establish(link) }
            return membership.established[node] === link
        }
        announceChange()
        if isJoined { return true }
        switch result.status {
        case .exists: return false
        case .timedOut: throw .fabric(.timedOut("joining \(address)"))
        case .busy: throw .fabric(.unreachable(address, reason: "it is shutting down"))
        default: throw .fabric(.unreachable(address, reason: "the connection was lost while joining"))
        }
    }

    /// The peer has called on a link that this node has asked it to join: so it has. False when this node has not asked.
    func establish(_ link: Link<Device>) -> Bool {
        let joins = membership.withLock { membership in
            let node = link.remoteNode
            guard membership.joining[node] === link else { return link.isJoined }
            if membership.established[node] == nil { membership.establish(link) }
            return link.isJoined
        }
        announceChange()
        return joins
    }

    // MARK: Acceptor

    /// The acceptor's body.
    func accept() {
        while !isStopping.load(ordering: .acquiring) {
            let isPending = expireHalfOpen()
            do throws(FabricError) {
                let until = isPending ? Deadline.after(.seconds(1)) : .never
                if let request = try device.nextRequest(until: until) { answer(request) }
            } catch {
                // Out of descriptors or memory: those who are connected are served on, and connecting is tried again in a while.
                let seen = lego_atomic_load_u32(changes)
                Futex.wait(changes, while: seen, until: .after(.milliseconds(100)))
            }
        }
    }

    /// Gives up accepted links that nobody joins in time. Answers whether some are still waited for.
    private func expireHalfOpen() -> Bool {
        let (expired, isPending) = membership.withLock { membership in
            let expired = membership.halfOpen.filter { $0.deadline.hasPassed }.map { $0.link }
            return (expired, membership.halfOpen.count > expired.count)
        }
        for link in expired { fail(link) }
        return isPending
    }

    private func answer(_ request: Device.Request) {
        let greeting: Greeting
        do throws(Greeting.Fault) {
            greeting = try Greeting(decoding: request.privateData)
        } catch {
            if case .otherVersion = error { return refuse(request, .version) }
            return request.reject()
        }
        guard greeting.verdict == .ok else { return request.reject() }
        if greeting.node == id { return refuse(request, .oneself) }
        if greeting.index == 0 { return answerFirst(request, greeting) }
        let link = membership.withLock { membership in
            membership.halfOpen.first {
                $0.link.remoteNode == greeting.node && $0.link.remoteMessageKey == greeting.messageKey
            }?.link
        }
        guard let link, Int(greeting.index) < link.pairCount, greeting.pairs == link.pairCount else {
            return request.reject()
        }
        accept(request, link, Int(greeting.index))
    }

    /// The first queue pair of a new link.
    private func answerFirst(_ request: Device.Request, _ greeting: Greeting) {
        let link: Link<Device>
        do throws(LiteError) {
            // What the initiator has no room for is never used.
            link = try makeLink(isInitiator: false, layout.restricted(to: greeting.layout))
        } catch {
            if case .fabric = error { return request.reject() }
            return refuse(request, isStopping.load(ordering: .relaxed) ? .closing : .full)
        }
        link.pendingGreeting = greeting
        let deadline = Deadline.after(Membership<Device>.halfOpenFor)
        membership.withLock { $0.halfOpen.append((link, deadline)) }
        accept(request, link, 0)
    }

    private func accept(_ request: Device.Request, _ link: Link<Device>, _ pair: Int) {
        do throws(FabricError) {
            let sendQueue = try device.makeCompletionQueue(capacity: parameters.sendRequests_max + 16)
            let pairs = pair == 0 ? min(link.pairCount, Int(link.pendingGreeting?.pairs ?? 0)) : link.pairCount
            let accepted = try request.accept(
                send: sendQueue, receive: receiveQueue(link, pair), parameters: parameters,
                privateData: self.greeting(pair, link, pairs: pairs).encode(),
                prepare: { (queuePair) throws(FabricError) in
                    if let greeting = link.pendingGreeting {
                        link.pendingGreeting = nil
                        membership.withLock { _ in link.adopt(greeting, link: queuePair.link) }
                    }
                    try install(queuePair, sendQueue, link, pair)
                })
            endIfLost(accepted, link)
        } catch { fail(link) }
    }

    /// Accepts a connection only to say why it is of no use, and ends it.
    private func refuse(_ request: Device.Request, _ verdict: Greeting.Verdict) {
        let layout = MessageLayout(calls: 1, messageBytes: LiteLimit.messageBytes.lowerBound)
        let greeting = Greeting(
            index: 0, pairs: 2, verdict: verdict, node: id, poolAddress: 0, poolBytes: 0, poolKey: 0, poolAccess: [],
            messageAddress: 0, messageKey: 0, layout: layout)
        do throws(FabricError) {
            let queue = try device.makeCompletionQueue(capacity: 16)
            var parameters = QueuePairParameters()
            parameters.sendRequests_max = 4
            parameters.receiveRequests_max = 4
            let pair = try request.accept(
                send: queue, receive: queue, parameters: parameters, privateData: greeting.encode(),
                prepare: { (_) throws(FabricError) in })
            pair.disconnect()
        } catch {
            // The initiator has gone: there is nobody to tell.
        }
    }

    // MARK: Queue pairs

    /// The most that the node allows a peer.
    private var layout: MessageLayout {
        MessageLayout(calls: configuration.callsPerPeer_max, messageBytes: configuration.messageBytes_max)
    }

    /// Sizes of every queue pair, see `TransferLimit`.
    private var parameters: QueuePairParameters {
        var parameters = QueuePairParameters()
        let transfers = Link<Device>.transfers_max / LiteLimit.queuePairs.lowerBound
        // Windows of its transfers + one message per call slot + those that were not signalled yet.
        parameters.sendRequests_max =
            transfers * TransferLimit.windowRequests + configuration.callsPerPeer_max + 2 * SendID.signalEvery
        parameters.receiveRequests_max = configuration.callsPerPeer_max
        parameters.scatterElements_max = 1
        return parameters
    }

    /// Ends a queue pair that was not connected yet when its link was taken down, and so took no notice of it.
    private func endIfLost(_ queuePair: Device.Pair, _ link: Link<Device>) {
        if link.isLost { queuePair.disconnect() }
    }

    private func receiveQueue(_ link: Link<Device>, _ pair: Int) -> Device.Queue {
        link.carriesOwnCalls(pair) ? responses.queue : requests
    }

    private func greeting(_ pair: Int, _ link: Link<Device>, pairs: Int? = nil) -> Greeting {
        Greeting(
            index: pair, pairs: pairs ?? link.pairCount, node: id, poolAddress: poolRegion.remoteAddress,
            poolBytes: configuration.poolBytes, poolKey: poolRegion.remoteKey, poolAccess: configuration.poolAccess,
            messageAddress: link.inboxAddress, messageKey: link.inboxKey, layout: link.layout)
    }

    /// Adds a queue pair to its link and posts its receives, before the other side can send.
    private func install(_ queuePair: Device.Pair, _ sendQueue: Device.Queue, _ link: Link<Device>, _ pair: Int)
        throws(FabricError)
    {
        let port = Port<Device>(pair: queuePair, sendQueue: sendQueue, parameters: parameters)
        if !membership.withLock({ _ in link.install(port, at: pair) }) {
            throw .protocolViolation("queue pair \(pair) of a link is announced twice, or the link was lost")
        }
        let id = ReceiveID(link: link.index, generation: link.generation, pair: pair)
        for _ in 0..<configuration.callsPerPeer_max {
            if !queuePair.postReceive(id: id.rawValue, local: UnsafeBufferPointer(start: nil, count: 0)) {
                throw .invalid(
                    "the device takes fewer than \(configuration.callsPerPeer_max) receives: lower callsPerPeer_max")
            }
        }
    }
}
