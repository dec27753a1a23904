import CLite
import Kernel
import Lite
import Wire

// Regions that this node manages, and the memory of its arena.
extension LiteService {
    private static var users_max: Int { 100 }

    // MARK: Memory

    func answerReserve(_ request: ClusterRequest, from node: UInt64) -> ClusterAnswer {
        guard request[0] > 0, let bytes = ExtentAllocator.rounded(request[0]) else {
            return ClusterAnswer(Code.invalid)
        }
        return control.withLock { state in
            guard let offset = state.arena.take(bytes) else {
                return ClusterAnswer(scrubber.isBusy ? Code.busy : Code.noSpace)
            }
            state.extents[offset] = (bytes, node)
            if bytes >= UInt64(PageJoiner.hugeBytes) { joiner?.announce() }
            return ClusterAnswer(Code.ok, offset)
        }
    }

    func answerAwaitMemory() -> ClusterAnswer {
        let before = control.withLock { $0.arena.freeBytes }
        _ = memoryGate.wait(until: .after(Self.courtesy)) {
            !scrubber.isBusy || control.withLock { $0.arena.freeBytes } != before
        }
        return ClusterAnswer(Code.ok)
    }

    /// Only the node that took memory gives it back; with a second word after a while, as somebody may still write to
    /// it.
    func answerRelease(_ request: ClusterRequest, from node: UInt64) -> ClusterAnswer {
        let extent = control.withLock { state -> (bytes: UInt64, node: UInt64)? in
            guard let extent = state.extents[request[0]], extent.node == node else { return nil }
            state.extents[request[0]] = nil
            return extent
        }
        guard let extent else { return ClusterAnswer(Code.handle) }
        if request[1] == 1 {
            scrubber.add(request[0], extent.bytes, notBefore: .after(configuration.quarantine))
        } else {
            clear(request[0], extent.bytes)
        }
        return ClusterAnswer(Code.ok)
    }

    /// Makes memory ready for the next.
    private func clear(_ offset: UInt64, _ bytes: UInt64) {
        if bytes > Scrubber.small { return scrubber.add(offset, bytes) }
        scrubber.clear(offset, bytes)
        control.withLock { $0.arena.give(offset, bytes) }
    }

    // MARK: Regions

    func answerOpenRegion(_ request: ClusterRequest, from node: UInt64) -> ClusterAnswer {
        control.withLock { state in
            guard let region = state.regions[request[0]] else { return ClusterAnswer(Code.gone) }
            let wanted = UInt8(truncatingIfNeeded: request[2])
            guard region.rights(of: UInt32(truncatingIfNeeded: request[1])) & wanted == wanted else {
                return ClusterAnswer(Code.access)
            }
            state.regions[request[0]]?.openers[node, default: 0] += 1
            var answer = ClusterAnswer(Code.ok, region.bytes)
            for piece in region.pieces { answer.words += [piece.node, piece.offset, piece.bytes] }
            return answer
        }
    }

    func answerCloseRegion(_ request: ClusterRequest, from node: UInt64) -> ClusterAnswer {
        control.withLock { state in
            guard let openers = state.regions[request[0]]?.openers[node] else { return }
            state.regions[request[0]]?.openers[node] = openers > request[1] ? openers - request[1] : nil
        }
        return ClusterAnswer(Code.ok)
    }

    func answerNameRegion(_ request: ClusterRequest) -> ClusterAnswer {
        let name = ObjectName(kind: .region, text: request.text)
        return control.withLock { state in
            guard let region = state.regions[request[0]] else { return ClusterAnswer(Code.gone) }
            if region.name != nil { return ClusterAnswer(Code.invalid) }
            if state.names[name] != nil { return ClusterAnswer(Code.exists) }
            state.regions[request[0]]?.name = name.text
            state.names[name] = request[0]
            state.unnamed[region.session]?.remove(request[0])
            return ClusterAnswer(Code.ok)
        }
    }

    func answerChangeRights(_ request: ClusterRequest) -> ClusterAnswer {
        let user = UInt32(truncatingIfNeeded: request[1])
        let rights = UInt8(truncatingIfNeeded: request[2])
        let grants = request[3] == 1
        var status = Code.gone
        var notice = ClusterRequest(.rightsChanged, request[0])
        let openers = control.withLock { state -> [UInt64] in
            guard var region = state.regions[request[0]] else { return [] }
            let former = region.rights[user] ?? 0
            region.rights[user] = grants ? rights : former & ~rights
            if region.rights.count > Self.users_max {
                status = Code.limit
                return []
            }
            state.regions[request[0]] = region
            for (user, rights) in region.rights { notice.words += [UInt64(user), UInt64(rights)] }
            status = Code.ok
            return Array(region.openers.keys)
        }
        for node in openers { _ = ask(node, notice) }
        return ClusterAnswer(status)
    }

    func answerFreeRegion(_ request: ClusterRequest) -> ClusterAnswer {
        ClusterAnswer(freeRegion(request[0]) ? Code.ok : Code.gone)
    }

    /// Ends a region: nobody can map it any more, operations of those who have it end, its memory goes back. False
    /// when there is no such region (any more).
    @discardableResult
    func freeRegion(_ number: UInt64) -> Bool {
        let region = control.withLock { state -> OwnedRegion? in
            guard let region = state.regions.removeValue(forKey: number) else { return nil }
            if let name = region.name { state.names[ObjectName(kind: .region, text: name)] = nil }
            state.unnamed[region.session]?.remove(number)
            return region
        }
        guard let region else { return false }
        let deadline = Deadline.after(configuration.nodeTimeout)
        // A node that does not answer is lost, and cannot reach the memory once that is noticed.
        var quiet = true
        for opener in region.openers.keys {
            var answer = ask(opener, ClusterRequest(.regionFreed, number))
            while answer.status == Code.ok, answer[0] != 0, !deadline.hasPassed {
                answer = ask(opener, ClusterRequest(.awaitRegion, number))
            }
            quiet = quiet && answer.status == Code.ok && answer[0] == 0
        }
        for piece in region.pieces { _ = ask(piece.node, ClusterRequest(.release, piece.offset, quiet ? 0 : 1)) }
        return true
    }

    // MARK: Loss of a node

    /// Takes back what a lost node had: its memory here, after a while; its handles of this node's regions.
    func regionsLost(_ lost: UInt64) {
        let freed = control.withLock { state in
            for number in state.regions.keys { state.regions[number]?.openers[lost] = nil }
            for (id, mapping) in state.mappings where id.node == lost { kill(mapping) }
            let mine = state.extents.filter { $0.value.node == lost }
            for offset in mine.keys { state.extents[offset] = nil }
            return mine
        }
        for (offset, extent) in freed {
            scrubber.add(offset, extent.bytes, notBefore: .after(configuration.quarantine))
        }
    }
}
