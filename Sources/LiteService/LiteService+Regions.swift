import CLite
import Kernel
import Lite
import Wire

// Regions as this node's programs use them: making, mapping, closing. What their managing node does is in
// `LiteService+Owner.swift`.
extension LiteService {
    // MARK: Allocation

    func serveAllocate(_ channel: ServiceChannel, _ submission: lite_submission) {
        let slot = Int(submission.slot)
        let count = Int(clamping: submission.count)
        guard (1...Int(LITE_PIECES_MAX)).contains(count), submission.operand > 0,
            let data = channel.bytes(at: submission.data, count: UInt64(count * 8))
        else { return channel.complete(slot, Code.invalid) }
        var nodes: [UInt64] = []
        for index in 0..<count {
            let node = data.load(fromByteOffset: index * 8, as: UInt64.self)
            nodes.append(node == 0 ? own : node)
        }
        let (status, handle) = allocate(channel.session, submission.operand, on: nodes)
        channel.complete(slot, status, value: handle)
    }

    private func allocate(_ session: Session, _ bytes: UInt64, on nodes: [UInt64]) -> (Int32, UInt64) {
        guard let rounded = ExtentAllocator.rounded(bytes), rounded < 1 << 56 else { return (Code.noSpace, 0) }
        // Equal parts of whole pages, so that a page does not lie on two nodes.
        let each = nodes.count == 1 ? rounded : (rounded / UInt64(nodes.count) + 4095) & ~4095
        var pieces: [(node: UInt64, offset: UInt64, bytes: UInt64)] = []
        var left = rounded
        for node in nodes where left > 0 {
            let part = min(left, each)
            let answer = reserve(node, part)
            if answer.status != Code.ok {
                for piece in pieces { _ = ask(piece.node, ClusterRequest(.release, piece.offset)) }
                return (answer.status, 0)
            }
            pieces.append((node, answer[0], part))
            left -= part
        }
        let region = OwnedRegion(
            bytes: bytes, pieces: pieces, session: session.id,
            rights: [session.user: UInt8(LITE_ALL.rawValue)], openers: [own: 1])
        let number = control.withLock { state -> UInt64 in
            let number = state.nextNumber()
            state.regions[number] = region
            // Of a session that has just ended, nobody else would free it.
            if state.sessions[session.id] != nil { state.unnamed[session.id, default: []].insert(number) }
            return number
        }
        let id = RegionID(node: own, number: number)
        let handle = mapped(id, bytes, pieces).flatMap {
            addHandle(session, $0, UInt8(LITE_ALL.rawValue), isMaster: true)
        }
        guard let handle else {
            freeRegion(number)
            return (Code.limit, 0)
        }
        return (Code.ok, handle)
    }

    /// Memory of a node; waits a moment where some is being cleared.
    private func reserve(_ node: UInt64, _ bytes: UInt64) -> ClusterAnswer {
        let deadline = Deadline.after(.seconds(5))
        while true {
            let answer = ask(node, ClusterRequest(.reserve, bytes))
            if answer.status != Code.busy || deadline.hasPassed {
                return answer.status == Code.busy ? ClusterAnswer(Code.noSpace) : answer
            }
            let waited = ask(node, ClusterRequest(.awaitMemory))
            if waited.status != Code.ok { return waited }
        }
    }

    // MARK: Mappings

    /// This node's view of a region; nil when one of its nodes is not connected.
    private func mapped(_ id: RegionID, _ bytes: UInt64, _ parts: [(node: UInt64, offset: UInt64, bytes: UInt64)])
        -> Mapping?
    {
        var pieces: [MappedPiece] = []
        var start: UInt64 = 0
        for part in parts {
            let peer = part.node == own ? nil : member(part.node)
            if part.node != own, peer == nil { return nil }
            guard part.offset <= (peer?.poolBytes ?? poolBytes), start <= bytes else { return nil }
            let count = min(part.bytes, bytes - start)
            pieces.append(
                MappedPiece(
                    start: start, count: count, node: part.node, offset: part.offset,
                    local: peer == nil ? pool + Int(part.offset) : nil, peer: peer,
                    lane: peer == nil || peer?.link == .sharedMemory ? nil : lanes.of(part.node)))
            start += count
        }
        return start == bytes && !pieces.isEmpty ? Mapping(id: id, bytes: bytes, pieces: pieces) : nil
    }

    /// A handle of a mapping, which is listed if it was not. nil when the session is over or has too many.
    private func addHandle(_ session: Session, _ fresh: Mapping, _ rights: UInt8, isMaster: Bool = false) -> UInt64? {
        control.withLock { state in
            let mapping = state.mappings[fresh.id] ?? fresh
            var entry = HandleEntry()
            entry.kind = .region
            entry.rights = rights
            entry.isMaster = isMaster
            entry.bytes = mapping.bytes
            entry.local = mapping.pieces.count == 1 ? mapping.pieces[0].local : nil
            guard let handle = session.addHandle(entry, retaining: mapping) else { return nil }
            mapping.handles.append((session, handle))
            mapping.setUnused(false)
            state.mappings[fresh.id] = mapping
            return handle
        }
    }

    func serveMap(_ channel: ServiceChannel, _ submission: lite_submission) {
        let slot = Int(submission.slot)
        let rights = UInt8(truncatingIfNeeded: submission.operand)
        guard let name = name(channel, submission), submission.operand > 0,
            submission.operand <= UInt64(LITE_ALL.rawValue)
        else { return channel.complete(slot, Code.invalid) }
        let (status, handle, bytes) = map(channel.session, name, rights)
        channel.complete(slot, status, value: handle, count: bytes)
    }

    private func map(_ session: Session, _ name: String, _ rights: UInt8) -> (Int32, UInt64, UInt64) {
        guard let found = find(.region, name) else { return (Code.noName, 0, 0) }
        let id = RegionID(node: found.node, number: found.number)
        // What happens to the region from here on is remembered, as the mapping may not exist yet.
        control.withLock { state in
            let former = state.opening[id] ?? (0, false)
            state.opening[id] = (former.count + 1, former.changed)
        }
        let answer = ask(found.node, ClusterRequest(.openRegion, found.number, UInt64(session.user), UInt64(rights)))
        defer {
            control.withLock { state in
                guard let now = state.opening[id] else { return }
                state.opening[id] = now.count == 1 ? nil : (now.count - 1, now.changed)
            }
        }
        if answer.status != Code.ok {
            return (answer.status == Code.gone ? Code.noName : answer.status, 0, 0)
        }
        var parts: [(node: UInt64, offset: UInt64, bytes: UInt64)] = []
        var index = 1
        while index + 2 < answer.words.count {
            parts.append((answer[index], answer[index + 1], answer[index + 2]))
            index += 3
        }
        let changed = control.withLock { $0.opening[id]?.changed ?? false }
        var status = Code.gone
        if !changed {
            if let fresh = mapped(id, answer[0], parts) {
                if let handle = addHandle(session, fresh, rights) {
                    // Freed or revoked in the moment before the handle was listed.
                    if control.withLock({ $0.opening[id]?.changed ?? false }) {
                        _ = closeRegion(session, handle)
                        return (Code.gone, 0, 0)
                    }
                    return (Code.ok, handle, answer[0])
                }
                status = Code.limit
            } else {
                status = Code.noNode
            }
        }
        _ = ask(found.node, ClusterRequest(.closeRegion, found.number, 1))
        return (status, 0, 0)
    }

    /// Closes a program's handle; what is under way with it ends as it would have. The node's last handle of a region waits for
    /// that: the managing node asks nobody any more who has said that he has closed it, and gives its memory to the next.
    func closeRegion(_ session: Session, _ handle: UInt64) -> Int32 {
        guard let entry = session.takeHandle(handle, .region), let object = entry.object else { return Code.handle }
        let mapping = Unmanaged<Mapping>.fromOpaque(object).takeRetainedValue()
        let isLast = control.withLock { _ in
            mapping.handles.removeAll { $0.session === session && $0.handle == handle }
            if mapping.handles.isEmpty { mapping.setUnused(true) }
            return mapping.handles.isEmpty
        }
        if isLast {
            // What has not ended by then is asked for when the region is freed: the node still counts as having it open.
            if mapping.awaitQuiet(until: .after(configuration.nodeTimeout)) != 0 { return Code.ok }
            retire(mapping)
        }
        if !entry.isDead { _ = ask(mapping.id.node, ClusterRequest(.closeRegion, mapping.id.number, 1)) }
        return Code.ok
    }

    /// Takes a mapping out that nobody has open and nobody works with. Any thread.
    func retire(_ mapping: Mapping) {
        control.withLock { state in
            guard mapping.isListed, mapping.handles.isEmpty, mapping.underWay == 0,
                state.mappings[mapping.id] === mapping
            else { return }
            mapping.isListed = false
            state.mappings[mapping.id] = nil
        }
    }

    // MARK: Management, at the program's node

    /// The region behind a handle that may manage it.
    private func administered(_ session: Session, _ handle: UInt64) -> (Int32, RegionID) {
        session.lock.lock()
        defer { session.lock.unlock() }
        guard let entry = session.handles.pointer(handle)?.pointee, let mapping = entry.mapping else {
            return (Code.handle, RegionID(node: 0, number: 0))
        }
        if entry.isDead { return (Code.gone, mapping.id) }
        return (entry.rights & UInt8(LITE_ADMIN.rawValue) == 0 ? Code.access : Code.ok, mapping.id)
    }

    func free(_ session: Session, _ handle: UInt64) -> Int32 {
        let (status, id) = administered(session, handle)
        if status != Code.ok { return status }
        let answer = ask(id.node, ClusterRequest(.freeRegion, id.number))
        if answer.status == Code.ok || answer.status == Code.gone { _ = closeRegion(session, handle) }
        return answer.status
    }

    func nameRegion(_ session: Session, _ handle: UInt64, _ name: String) -> Int32 {
        let (status, id) = administered(session, handle)
        if status != Code.ok { return status }
        return claiming(.region, name) {
            ask(id.node, ClusterRequest(.nameRegion, id.number, texts: [name])).status
        }
    }

    func changeRights(_ session: Session, _ handle: UInt64, _ user: UInt64, _ rights: UInt64, grants: Bool) -> Int32 {
        guard user <= UInt64(UInt32.max), rights <= UInt64(LITE_ALL.rawValue), grants || rights > 0 else {
            return Code.invalid
        }
        let (status, id) = administered(session, handle)
        if status != Code.ok { return status }
        return ask(id.node, ClusterRequest(.changeRights, id.number, user, rights, grants ? 1 : 0)).status
    }

    // MARK: What the managing node says

    func answerRegionFreed(_ request: ClusterRequest, from node: UInt64) -> ClusterAnswer {
        let id = RegionID(node: node, number: request[0])
        let left = control.withLock { state -> UInt32 in
            if let now = state.opening[id] { state.opening[id] = (now.count, true) }
            guard let mapping = state.mappings[id] else { return 0 }
            kill(mapping)
            return mapping.underWay
        }
        return ClusterAnswer(Code.ok, UInt64(left))
    }

    func answerAwaitRegion(_ request: ClusterRequest, from node: UInt64) -> ClusterAnswer {
        let id = RegionID(node: node, number: request[0])
        guard let mapping = control.withLock({ $0.mappings[id] }) else { return ClusterAnswer(Code.ok, 0) }
        return ClusterAnswer(Code.ok, UInt64(mapping.awaitQuiet(until: .after(Self.courtesy))))
    }

    /// Lets no further operation begin. The control state's lock is held.
    func kill(_ mapping: Mapping) {
        for (session, handle) in mapping.handles {
            session.lock.lock()
            session.handles.pointer(handle)?.pointee.isDead = true
            session.lock.unlock()
        }
    }

    func answerRightsChanged(_ request: ClusterRequest, from node: UInt64) -> ClusterAnswer {
        let id = RegionID(node: node, number: request[0])
        var rights: [UInt32: UInt8] = [:]
        for index in stride(from: 1, to: request.words.count - 1, by: 2) {
            rights[UInt32(truncatingIfNeeded: request[index])] = UInt8(truncatingIfNeeded: request[index + 1])
        }
        control.withLock { state in
            if let now = state.opening[id] { state.opening[id] = (now.count, true) }
            guard let mapping = state.mappings[id] else { return }
            for (session, handle) in mapping.handles {
                let allowed = (rights[session.user] ?? 0) | (rights[OwnedRegion.everybody] ?? 0)
                session.lock.lock()
                if let entry = session.handles.pointer(handle), !entry.pointee.isMaster {
                    entry.pointee.rights &= allowed
                }
                session.lock.unlock()
            }
        }
        return ClusterAnswer(Code.ok)
    }
}
