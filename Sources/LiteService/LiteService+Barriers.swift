import CLite
import Kernel
import Wire

// Barriers. A barrier is at the node of whoever came first, and goes when everybody has come.
extension LiteService {
    // MARK: At the program's node

    func serveBarrier(_ channel: ServiceChannel, _ submission: lite_submission) {
        let slot = Int(submission.slot)
        let parties = submission.operand
        guard let name = name(channel, submission), (1...(1 << 20)).contains(parties) else {
            return channel.complete(slot, Code.invalid)
        }
        let deadline = Deadline.after(configuration.nodeTimeout)
        var status = Code.noNode
        // One that is still empty afterwards: the program has ended, or given up, before it came to it.
        var made: UInt64?
        defer { if let made { removeIfEmpty(made) } }
        while !deadline.hasPassed {
            if let found = find(.barrier, name) {
                let outcome = arrive(channel, submission, found.node, found.number, parties)
                // Everybody had come in this moment: this is the next round.
                if outcome == Code.gone { continue }
                return
            }
            status = claiming(.barrier, name) {
                made = control.withLock { state in
                    let number = state.nextNumber()
                    state.barriers[number] = OwnedBarrier(name: name, parties: parties)
                    state.names[ObjectName(kind: .barrier, text: name)] = number
                    return number
                }
                return Code.ok
            }
            if status != Code.ok, status != Code.exists { break }
        }
        channel.complete(slot, status)
    }

    /// Waits at a barrier; `LITE_EGONE` when there is none any more, and nothing has been completed then.
    private func arrive(
        _ channel: ServiceChannel, _ submission: lite_submission, _ node: UInt64, _ number: UInt64, _ parties: UInt64
    ) -> Int32 {
        let session = channel.session
        let wait = Wait(kind: .barrier, sequence: submission.sequence, object: number, home: node)
        guard let token = channel.begin(Int(submission.slot), wait) else {
            expel(session)
            return Code.ok
        }
        let answer = ask(node, ClusterRequest(.arrive, number, session.id, token.rawValue, parties))
        if answer.status == Code.gone {
            // Withdrawn or failed meanwhile: then it has been completed.
            return channel.claim(token) == nil ? Code.ok : Code.gone
        }
        if answer.status == Code.ok, answer[0] == 0 {
            if node != own, member(node) == nil { end(token, Code.noNode) }
            // Given up before it had arrived: whoever ended the wait has asked too early.
            if channel.current(Int(submission.slot), sequence: submission.sequence) == nil {
                departBarrier(wait, token, session)
            }
            return Code.ok
        }
        end(token, answer.status)
        return Code.ok
    }

    /// A program that waited at a barrier does so no longer.
    func departBarrier(_ wait: Wait, _ token: WaitToken, _ session: Session) {
        _ = ask(wait.home, ClusterRequest(.depart, wait.object, session.id, token.rawValue))
    }

    // MARK: At the barrier's node

    func answerArrive(_ request: ClusterRequest, from node: UInt64) -> ClusterAnswer {
        let waiting = Waiting(node: node, session: request[1], token: request[2])
        var status = Code.ok
        let others = control.withLock { state -> [Waiting]? in
            guard var barrier = state.barriers[request[0]] else {
                status = Code.gone
                return nil
            }
            // An empty one is taken over: whoever made it has gone before it came.
            if barrier.waiting.isEmpty { barrier.parties = request[3] }
            if barrier.parties != request[3] {
                status = Code.invalid
                return nil
            }
            barrier.waiting.append(waiting)
            if UInt64(barrier.waiting.count) < barrier.parties {
                state.barriers[request[0]] = barrier
                return nil
            }
            Self.remove(request[0], &state)
            return Array(barrier.waiting.dropLast())
        }
        guard let others else { return ClusterAnswer(status, 0) }
        for other in others { _ = ask(other.node, ClusterRequest(.wake, other.token, 0)) }
        return ClusterAnswer(Code.ok, 1)
    }

    func answerDepart(_ request: ClusterRequest, from node: UInt64) -> ClusterAnswer {
        let waiting = Waiting(node: node, session: request[1], token: request[2])
        control.withLock { state in
            state.barriers[request[0]]?.waiting.removeAll { $0 == waiting }
            if state.barriers[request[0]]?.waiting.isEmpty == true { Self.remove(request[0], &state) }
        }
        return ClusterAnswer(Code.ok)
    }

    private func removeIfEmpty(_ number: UInt64) {
        control.withLock { state in
            if state.barriers[number]?.waiting.isEmpty == true { Self.remove(number, &state) }
        }
    }

    private static func remove(_ number: UInt64, _ state: inout ControlState) {
        guard let barrier = state.barriers.removeValue(forKey: number) else { return }
        state.names[ObjectName(kind: .barrier, text: barrier.name)] = nil
    }

    func barriersLost(_ lost: UInt64) {
        control.withLock { state in
            for number in Array(state.barriers.keys) {
                let before = state.barriers[number]?.waiting.count ?? 0
                state.barriers[number]?.waiting.removeAll { $0.node == lost }
                if before > 0, state.barriers[number]?.waiting.isEmpty == true { Self.remove(number, &state) }
            }
        }
    }
}
