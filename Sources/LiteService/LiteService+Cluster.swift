import CLite
import Fabric
import Glibc
import Kernel
import Lite
import Wire

/// The numbers of the service's functions, see `RackFunction`.
enum LiteFunction {
    static let leaf = FunctionID(rawValue: 0x0601)
    static let work = FunctionID(rawValue: 0x0602)
    static let request = FunctionID(rawValue: 0x0603)
    static let reply = FunctionID(rawValue: 0x0604)
}

// What nodes ask of each other.
extension LiteService {
    func registerFunctions() {
        let bytes = ClusterLimit.bytes_max
        for (function, thread) in [(LiteFunction.leaf, HandlerThread.poller), (LiteFunction.work, .worker)] {
            node.register(function, requestBytes_max: bytes, responseBytes_max: bytes, on: thread) {
                [unowned self] peer, request, response in
                // A copy: the other node could change the original between two looks at it.
                let copy = [UInt8](request)
                guard let message = copy.withUnsafeBytes({ ClusterRequest(decoding: $0) }),
                    message.verb.isLeaf == (function == LiteFunction.leaf)
                else { return CallResult(status: .malformed) }
                let answer = answer(message, from: peer.id.rawValue)
                guard let count = answer.encode(into: response) else { return CallResult(status: .tooLarge) }
                return CallResult(status: .ok, count: count)
            }
        }
        node.register(LiteFunction.request, requestBytes_max: Self.messageBytes, responseBytes_max: 0, on: .poller) {
            [unowned self] peer, request, _ in
            guard let header = CallHeader(request) else { return CallResult(status: .malformed) }
            let body = UnsafeRawBufferPointer(rebasing: request[CallHeader.encodedSize...])
            let call = IncomingCall(node: peer.id.rawValue, token: header.token, capacity: header.detail)
            let status = deliver(header.function, call, body)
            if status != Code.ok, refuse(call, status, of: peer) { return CallResult(status: .ok) }
            return CallResult(status: Status(lite: status))
        }
        node.register(LiteFunction.reply, requestBytes_max: Self.messageBytes, responseBytes_max: 0, on: .poller) {
            [unowned self] _, request, _ in
            guard let header = CallHeader(request) else { return CallResult(status: .malformed) }
            let body = UnsafeRawBufferPointer(rebasing: request[CallHeader.encodedSize...])
            let status = Int32(truncatingIfNeeded: Int64(bitPattern: header.detail))
            return CallResult(status: Status(lite: completeCall(WaitToken(rawValue: header.token), status, body)))
        }
        node.onEnded { [unowned self] token, status in
            if token == 0 { return }
            let token = WaitToken(rawValue: token)
            channels.find(token)?.settle(token, status.lite)
        }
        node.onPeerLost { [unowned self] peer in lose(peer.id.rawValue) }
    }

    /// The connected node of that number, once it has said who it is or this node has.
    func member(_ number: UInt64) -> LitePeer? { node.peer(NodeID(rawValue: number)) }

    /// Asks a node, or does it here if that is this one. `LITE_ENODE` when the node is lost or does not answer in
    /// time. No lock is held; not for handlers of leaf verbs.
    func ask(_ number: UInt64, _ request: ClusterRequest) -> ClusterAnswer {
        if number == own { return answer(request, from: own) }
        guard let peer = member(number) else { return ClusterAnswer(Code.noNode) }
        let function = request.verb.isLeaf ? LiteFunction.leaf : LiteFunction.work
        let deadline = Deadline.after(configuration.nodeTimeout)
        let room = ClusterLimit.bytes_max
        return withUnsafeTemporaryAllocation(byteCount: 2 * room, alignment: 16) { buffer in
            let outgoing = UnsafeMutableRawBufferPointer(rebasing: buffer[..<room])
            let incoming = UnsafeMutableRawBufferPointer(rebasing: buffer[room...])
            guard let count = request.encode(into: outgoing) else { return ClusterAnswer(Code.invalid) }
            pulse.begin(number)
            defer { pulse.end(number) }
            let result = node.call(
                peer, function, request: UnsafeRawBufferPointer(rebasing: outgoing[..<count]), response: incoming,
                until: deadline)
            if result.status == .timedOut { giveUp(peer) }
            guard result.status.isOK,
                let answer = ClusterAnswer(
                    decoding: UnsafeRawBufferPointer(rebasing: incoming[..<result.count]))
            else { return ClusterAnswer(Code.noNode) }
            return answer
        }
    }

    /// A node that did not answer in time counts as lost.
    func giveUp(_ peer: LitePeer) {
        logger.warning("a node does not answer", metadata: ["node": "\(String(peer.id.rawValue, radix: 16))"])
        node.beginDisconnect(peer)
    }

    /// Does what a node asks.
    func answer(_ request: ClusterRequest, from caller: UInt64) -> ClusterAnswer {
        switch request.verb {
        case .hello: answerHello(request, from: caller)
        case .members: answerMembers()
        case .claim: answerClaim(request, from: caller)
        case .unclaim: answerUnclaim(request, from: caller)
        case .find: answerFind(request)
        case .reserve: answerReserve(request, from: caller)
        case .release: answerRelease(request, from: caller)
        case .openRegion: answerOpenRegion(request, from: caller)
        case .closeRegion: answerCloseRegion(request, from: caller)
        case .freeRegion: answerFreeRegion(request)
        case .changeRights: answerChangeRights(request)
        case .nameRegion: answerNameRegion(request)
        case .regionFreed: answerRegionFreed(request, from: caller)
        case .rightsChanged: answerRightsChanged(request, from: caller)
        case .fill: answerFill(request)
        case .move: answerMove(request)
        case .push: answerPush(request)
        case .atomic: answerAtomic(request)
        case .openLock: answerOpenLock(request, from: caller)
        case .acquire: answerAcquire(request, from: caller)
        case .withdraw: answerWithdraw(request, from: caller)
        case .unlock: answerUnlock(request, from: caller)
        case .closeLock: answerCloseLock(request, from: caller)
        case .arrive: answerArrive(request, from: caller)
        case .depart: answerDepart(request, from: caller)
        case .wake: answerWake(request)
        case .awaitClaim: answerAwaitClaim(request)
        case .awaitMemory: answerAwaitMemory()
        case .awaitRegion: answerAwaitRegion(request, from: caller)
        }
    }

    /// A node is gone: everything that it had here, and everything that waits for it.
    private func lose(_ lost: UInt64) {
        let name = control.withLock { state in
            state.claims = state.claims.filter { $0.value.node != lost }
            return state.members.removeValue(forKey: lost)?.name
        }
        claimGate.open()
        // Others than LITE's nodes may be connected, too.
        if let name { logger.warning("a node was lost", metadata: ["node": "\(name)"]) }
        lanes.remove(lost)
        regionsLost(lost)
        for channel in channels.all { channel.failWaits(of: lost) }
        locksLost(lost)
        barriersLost(lost)
    }

    /// How long a node waits for another's sake, at most: less than any deadline.
    static var courtesy: Duration { .seconds(1) }

    // MARK: Names

    /// Every name is where its object is. So that no two nodes make an object of one name, the node of the lowest
    /// number (the arbiter) lets one at a time.
    func claiming(_ kind: ObjectKind, _ name: String, _ make: () -> Int32) -> Int32 {
        let deadline = Deadline.after(configuration.nodeTimeout)
        while true {
            let arbiter = min(own, control.withLock { $0.members.keys.min() } ?? own)
            let claim = ask(arbiter, ClusterRequest(.claim, kind.rawValue, texts: [name]))
            if claim.status == Code.ok {
                defer { _ = ask(arbiter, ClusterRequest(.unclaim, kind.rawValue, texts: [name])) }
                return find(kind, name) == nil ? make() : Code.exists
            }
            if deadline.hasPassed || claim.status != Code.busy { return claim.status }
            let answer = ask(arbiter, ClusterRequest(.awaitClaim, kind.rawValue, texts: [name]))
            if answer.status != Code.ok { return answer.status }
        }
    }

    /// Where the object of that name is. Nodes that do not answer just now are asked last.
    func find(_ kind: ObjectKind, _ name: String) -> (node: UInt64, number: UInt64)? {
        let (here, others) = control.withLock { state in
            (state.names[ObjectName(kind: kind, text: name)], Array(state.members.keys))
        }
        if let here { return (own, here) }
        let silent = others.filter { pulse.isSilent($0) }
        for node in others.filter({ !silent.contains($0) }) + silent {
            let answer = ask(node, ClusterRequest(.find, kind.rawValue, texts: [name]))
            if answer.status == Code.ok { return (node, answer[0]) }
        }
        return nil
    }

    private func objectName(_ request: ClusterRequest) -> ObjectName? {
        ObjectKind(rawValue: request[0]).map { ObjectName(kind: $0, text: request.text) }
    }

    private func answerClaim(_ request: ClusterRequest, from caller: UInt64) -> ClusterAnswer {
        guard let name = objectName(request) else { return ClusterAnswer(Code.invalid) }
        return control.withLock { state in
            if let claim = state.claims[name], !claim.until.hasPassed { return ClusterAnswer(Code.busy) }
            state.claims[name] = (caller, .after(configuration.nodeTimeout))
            return ClusterAnswer(Code.ok)
        }
    }

    private func answerUnclaim(_ request: ClusterRequest, from caller: UInt64) -> ClusterAnswer {
        guard let name = objectName(request) else { return ClusterAnswer(Code.invalid) }
        control.withLock { state in
            if state.claims[name]?.node == caller { state.claims[name] = nil }
        }
        claimGate.open()
        return ClusterAnswer(Code.ok)
    }

    private func answerAwaitClaim(_ request: ClusterRequest) -> ClusterAnswer {
        guard let name = objectName(request) else { return ClusterAnswer(Code.invalid) }
        _ = claimGate.wait(until: .after(Self.courtesy)) {
            control.withLock { $0.claims[name]?.until.hasPassed ?? true }
        }
        return ClusterAnswer(Code.ok)
    }

    private func answerFind(_ request: ClusterRequest) -> ClusterAnswer {
        guard let name = objectName(request) else { return ClusterAnswer(Code.invalid) }
        let number = control.withLock { $0.names[name] }
        return number.map { ClusterAnswer(Code.ok, $0) } ?? ClusterAnswer(Code.noName)
    }

    // MARK: Members

    private func answerHello(_ request: ClusterRequest, from caller: UInt64) -> ClusterAnswer {
        guard request.texts.count == 2, caller != own else { return ClusterAnswer(Code.invalid) }
        // A node that was lost before its hello came stays lost.
        guard member(caller) != nil else { return ClusterAnswer(Code.noNode) }
        enter(caller, Member(name: request.texts[1], address: request.texts[0]))
        return ClusterAnswer(Code.ok, texts: [configuration.name])
    }

    /// Adds a node to the cluster.
    func enter(_ number: UInt64, _ member: Member) {
        let isNew = control.withLock { $0.members.updateValue(member, forKey: number) == nil }
        if isNew { logger.info("a node joined", metadata: ["node": "\(member.name)", "address": "\(member.address)"]) }
        // Lost between the two: its loss may have been told before it was entered.
        if self.member(number) == nil { control.withLock { $0.members[number] = nil } }
    }

    private func answerMembers() -> ClusterAnswer {
        control.withLock { state in
            var answer = ClusterAnswer(Code.ok)
            for (number, member) in state.members.prefix(ClusterLimit.texts_max / 2) {
                answer.words.append(number)
                answer.texts += [member.address, member.name]
            }
            return answer
        }
    }
}

extension Status {
    /// One of `lite.h`'s, which are negative, beside Lite's own.
    init(lite code: Int32) { self = code == 0 ? .ok : Status(rawValue: code) }
    /// The status of `lite.h` for how a call to another node ended.
    var lite: Int32 { rawValue <= 0 ? rawValue : LITE_ENODE.rawValue }
}
