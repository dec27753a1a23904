import CLite
import Kernel
import Wire

// Locks. A lock is at the node that made it, which keeps who holds it and who waits, in their order. Whoever cannot
// have it at once waits in its channel until that node wakes it.
extension LiteService {
    // MARK: At the program's node

    func serveOpenLock(_ channel: ServiceChannel, _ submission: lite_submission) {
        let slot = Int(submission.slot)
        guard let name = name(channel, submission) else { return channel.complete(slot, Code.invalid) }
        let session = channel.session
        let deadline = Deadline.after(configuration.nodeTimeout)
        var status = Code.noNode
        while !deadline.hasPassed {
            guard let found = find(.lock, name) else {
                status = claiming(.lock, name) {
                    control.withLock { state in
                        let number = state.nextNumber()
                        state.locks[number] = OwnedLock(name: name)
                        state.names[ObjectName(kind: .lock, text: name)] = number
                    }
                    return Code.ok
                }
                if status == Code.ok || status == Code.exists { continue }
                break
            }
            status = ask(found.node, ClusterRequest(.openLock, found.number, session.id)).status
            // Closed by its last user in this moment.
            if status == Code.gone { continue }
            if status != Code.ok { break }
            var entry = HandleEntry()
            entry.kind = .lock
            let reference = LockReference(home: found.node, id: found.number)
            guard let handle = session.addHandle(entry, retaining: reference) else {
                _ = ask(found.node, ClusterRequest(.closeLock, found.number, session.id, 0))
                status = Code.limit
                break
            }
            return channel.complete(slot, Code.ok, value: handle)
        }
        channel.complete(slot, status)
    }

    func serveLock(_ channel: ServiceChannel, _ submission: lite_submission) {
        let slot = Int(submission.slot)
        let session = channel.session
        guard let lock = session.findLock(submission.handle) else { return channel.complete(slot, Code.handle) }
        let wait = Wait(kind: .lock, sequence: submission.sequence, object: lock.id, home: lock.home)
        guard let token = channel.begin(slot, wait) else { return expel(session) }
        let answer = ask(lock.home, ClusterRequest(.acquire, lock.id, session.id, token.rawValue))
        if answer.status == Code.ok, answer[0] == 0 {
            if lock.home != own, member(lock.home) == nil { end(token, Code.noNode) }
            return
        }
        let isWaiting = end(token, answer.status, value: answer[1])
        // Withdrawn before the answer came: the lock is not for nobody.
        if !isWaiting, answer.status == Code.ok {
            _ = ask(lock.home, ClusterRequest(.withdraw, lock.id, session.id, token.rawValue))
        }
    }

    /// Ends a wait of this node; false when it was over.
    @discardableResult
    func end(_ token: WaitToken, _ status: Int32, value: UInt64 = 0) -> Bool {
        guard let channel = channels.find(token), channel.claim(token) != nil else { return false }
        channel.complete(token.slot, status, value: value)
        return true
    }

    func unlock(_ session: Session, _ handle: UInt64) -> Int32 {
        guard let lock = session.findLock(handle) else { return Code.handle }
        return ask(lock.home, ClusterRequest(.unlock, lock.id, session.id)).status
    }

    func closeLock(_ session: Session, _ handle: UInt64, hasEnded: Bool) -> Int32 {
        guard let entry = session.takeHandle(handle, .lock), let object = entry.object else { return Code.handle }
        let lock = Unmanaged<LockReference>.fromOpaque(object).takeRetainedValue()
        return ask(lock.home, ClusterRequest(.closeLock, lock.id, session.id, hasEnded ? 1 : 0)).status
    }

    func answerWake(_ request: ClusterRequest) -> ClusterAnswer {
        let isWaiting = end(WaitToken(rawValue: request[0]), Code.ok, value: request[1])
        return ClusterAnswer(isWaiting ? Code.ok : Code.gone)
    }

    // MARK: At the lock's node

    func answerOpenLock(_ request: ClusterRequest, from node: UInt64) -> ClusterAnswer {
        let opener = SessionID(node: node, session: request[1])
        let exists = control.withLock { state in
            state.locks[request[0]]?.openers[opener, default: 0] += 1
            return state.locks[request[0]] != nil
        }
        return ClusterAnswer(exists ? Code.ok : Code.gone)
    }

    func answerAcquire(_ request: ClusterRequest, from node: UInt64) -> ClusterAnswer {
        let waiting = Waiting(node: node, session: request[1], token: request[2])
        return control.withLock { state in
            guard var lock = state.locks[request[0]] else { return ClusterAnswer(Code.gone) }
            defer { state.locks[request[0]] = lock }
            guard let holder = lock.holder else {
                let isOrphaned = lock.isOrphaned
                lock.holder = waiting
                lock.isOrphaned = false
                return ClusterAnswer(Code.ok, 1, isOrphaned ? 1 : 0)
            }
            if holder.node == node, holder.session == request[1] { return ClusterAnswer(Code.invalid) }
            lock.queue.append(waiting)
            return ClusterAnswer(Code.ok, 0, 0)
        }
    }

    func answerUnlock(_ request: ClusterRequest, from node: UInt64) -> ClusterAnswer {
        let status = control.withLock { state -> Int32 in
            guard let lock = state.locks[request[0]] else { return Code.gone }
            guard let holder = lock.holder, holder.node == node, holder.session == request[1] else {
                return Code.notHeld
            }
            state.locks[request[0]]?.holder = nil
            // Whoever unlocks has been told, even where the answer to `wake` is still on its way.
            state.locks[request[0]]?.isOrphaned = false
            return Code.ok
        }
        if status == Code.ok { passOn(request[0]) }
        return ClusterAnswer(status)
    }

    func answerWithdraw(_ request: ClusterRequest, from node: UInt64) -> ClusterAnswer {
        let waiting = Waiting(node: node, session: request[1], token: request[2])
        let wasHeld = control.withLock { state in
            state.locks[request[0]]?.queue.removeAll { $0 == waiting }
            guard state.locks[request[0]]?.holder == waiting else { return false }
            state.locks[request[0]]?.holder = nil
            return true
        }
        if wasHeld { passOn(request[0]) }
        return ClusterAnswer(Code.ok)
    }

    func answerCloseLock(_ request: ClusterRequest, from node: UInt64) -> ClusterAnswer {
        let opener = SessionID(node: node, session: request[1])
        control.withLock { state in
            guard var lock = state.locks[request[0]], let count = lock.openers[opener] else { return }
            // Another handle of the same program keeps its turn.
            lock.openers[opener] = count > 1 ? count - 1 : nil
            if count == 1 { Self.drop(&lock, hasEnded: request[2] == 1) { $0 == opener } }
            Self.store(lock, request[0], &state)
        }
        passOn(request[0])
        return ClusterAnswer(Code.ok)
    }

    /// Takes programs out of a lock's holder and queue.
    private static func drop(_ lock: inout OwnedLock, hasEnded: Bool, _ isGone: (SessionID) -> Bool) {
        lock.queue.removeAll { isGone(SessionID(node: $0.node, session: $0.session)) }
        if let holder = lock.holder, isGone(SessionID(node: holder.node, session: holder.session)) {
            lock.holder = nil
            lock.isOrphaned = lock.isOrphaned || hasEnded
        }
    }

    /// Puts a changed lock back, or takes it out when nobody has it open.
    private static func store(_ lock: OwnedLock, _ number: UInt64, _ state: inout ControlState) {
        if lock.openers.isEmpty {
            state.locks[number] = nil
            state.names[ObjectName(kind: .lock, text: lock.name)] = nil
        } else {
            state.locks[number] = lock
        }
    }

    /// Gives a lock that nobody holds to the first in the queue who still waits. Not on a handler of a leaf verb.
    private func passOn(_ number: UInt64) {
        while true {
            let next = control.withLock { state -> (waiting: Waiting, isOrphaned: Bool)? in
                guard var lock = state.locks[number], lock.holder == nil, !lock.queue.isEmpty else { return nil }
                let waiting = lock.queue.removeFirst()
                lock.holder = waiting
                defer { state.locks[number] = lock }
                return (waiting, lock.isOrphaned)
            }
            guard let (waiting, isOrphaned) = next else { return }
            let answer = ask(waiting.node, ClusterRequest(.wake, waiting.token, isOrphaned ? 1 : 0))
            let isTaken = answer.status == Code.ok
            control.withLock { state in
                // It may have unlocked since, and others have come and gone.
                guard state.locks[number]?.holder == waiting else { return }
                if isTaken { state.locks[number]?.isOrphaned = false } else { state.locks[number]?.holder = nil }
            }
            if isTaken { return }
        }
    }

    func locksLost(_ lost: UInt64) {
        let numbers = control.withLock { state in
            for (number, lock) in state.locks {
                var lock = lock
                lock.openers = lock.openers.filter { $0.key.node != lost }
                Self.drop(&lock, hasEnded: true) { $0.node == lost }
                Self.store(lock, number, &state)
            }
            return Array(state.locks.keys)
        }
        for number in numbers { passOn(number) }
    }
}
