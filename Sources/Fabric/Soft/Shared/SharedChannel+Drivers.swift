import CLinux
import Glibc
import Kernel
import Synchronization

/// Whom a driver's run has given something to look at. They are woken after the run, whose end is the full barrier that
/// this needs: either they are seen to sleep, or their last look before they sleep sees it.
struct Wakeups: OptionSet {
    let rawValue: UInt8
    /// Whoever has armed the pair's completion queue.
    static let poller = Wakeups(rawValue: 1)
    /// The peer: a message, or room and receives.
    static let peer = Wakeups(rawValue: 2)
}

extension SharedChannel {
    func driveSend(_ pair: SoftQueuePair) { whileSendDriver(pair) { runSend(pair) } }

    /// Runs `body` as the send driver's, and then wakes whom it has given something to look at.
    @inline(__always)
    private func whileSendDriver(_ pair: SoftQueuePair, _ body: () -> Void) {
        var due: Wakeups = []
        sendDriver.drive {
            body()
            due.formUnion(sendWakeups)
            sendWakeups = []
        }
        if due.contains(.poller) { pair.sendCompletions.notifyIfSeenArmed() }
        if due.contains(.peer) { wakePeerIfArmed() }
    }

    /// Carries out a request that is not in the send queue, if nothing is before it and there is nothing to be waited for:
    /// neither it nor the bytes of an inline one are copied then. False when it must be appended, as the entry says now. The
    /// poster's thread.
    @inline(__always)
    func executeAtOnce(
        _ entry: inout SendEntry, _ local: UnsafeBufferPointer<ScatterElement>, _ pair: SoftQueuePair
    ) -> Bool {
        if !pair.sendQueue.isEmpty { return false }
        var isDone = false
        whileSendDriver(pair) {
            // Once more where a note was left meanwhile, unless it has ended.
            if !isDone, !entry.isOver { isDone = tryOnce(&entry, local, pair) }
        }
        return isDone
    }

    /// On the send driver, while the send queue is empty.
    @inline(__always)
    private func tryOnce(_ entry: inout SendEntry, _ local: UnsafeBufferPointer<ScatterElement>, _ pair: SoftQueuePair)
        -> Bool
    {
        guard pair.state.load(ordering: .acquiring) == SoftQueuePair.State.connected.rawValue else { return false }
        let isReserved = entry.isSignaled
        if isReserved, !pair.sendCompletions.reserve() { return false }
        let elements = UnsafeMutablePointer(mutating: local.baseAddress) ?? pair.sendQueue.elements(0)
        guard case .finished(let status) = withUnsafeMutablePointer(to: &entry, { execute($0, elements) }) else {
            if isReserved { pair.sendCompletions.cancelReservation() }
            return false
        }
        if !isReserved {
            if status == .success { return true }
            guard pair.sendCompletions.reserve() else {
                entry.end(status)
                return false
            }
        }
        if pair.report(entry, status) { sendWakeups.insert(.poller) }
        return true
    }

    private func runSend(_ pair: SoftQueuePair) {
        while !pair.sendQueue.isEmpty {
            let index = pair.sendQueue.first
            let entry = pair.sendQueue.entry(index)
            let elements = pair.sendQueue.elements(index)
            // A request that is not signalled needs a place only where it fails.
            let isReserved = entry.pointee.isSignaled
            if isReserved, !pair.sendCompletions.reserve() { return }
            var status = WorkStatus.flushed
            if entry.pointee.isOver {
                status = entry.pointee.verdict
            } else if pair.state.load(ordering: .acquiring) == SoftQueuePair.State.connected.rawValue {
                var step = execute(entry, elements)
                if case .served = step { step = serve(entry, elements, pair) }
                switch step {
                case .finished(let result): status = result
                case .waitingForReceive where !pair.mayWaitForReceive(): status = .receiverNotReady
                case .waitingForReceive:
                    if isReserved { pair.sendCompletions.cancelReservation() }
                    return
                case .waiting, .served:
                    if isReserved { pair.sendCompletions.cancelReservation() }
                    askForRegion(pair)
                    return
                }
            }
            pair.stopWaitingForReceive()
            if !isReserved {
                if status == .success {
                    pair.sendQueue.retire()
                    continue
                }
                entry.pointee.end(status)
                guard pair.sendCompletions.reserve() else { return }
            }
            if pair.complete(entry, status) { sendWakeups.insert(.poller) }
        }
    }

    private func askForRegion(_ pair: SoftQueuePair) {
        let key = wantedKey
        if key == 0 || key == askedKey { return }
        if ControlMessage(kind: .wantRegion, key: key).send(on: control) { askedKey = key } else { pair.context.wake() }
    }

    /// Maps a region's memory file; answers whether it could. On the device's thread.
    func install(_ key: UInt32, file: consuming Descriptor) -> Bool {
        guard let device = peerDevice else { return false }
        do throws(FabricError) {
            try device.install(key, file: file)
            return true
        } catch {
            return false
        }
    }

    /// The answer about a region has come: on the device's thread.
    func regionArrived(_ key: UInt32, isMapped: Bool, _ pair: SoftQueuePair) {
        if !isMapped { unmappableKey.store(key, ordering: .sequentiallyConsistent) }
        driveSend(pair)
    }

    /// Takes what has arrived; what goes straight to `poll` is in it afterwards.
    @inline(__always)
    func driveReceive(_ pair: SoftQueuePair, _ poll: inout SoftCompletionQueue.Poll) {
        var due: Wakeups = []
        receiveDriver.drive { due.formUnion(runReceive(pair, &poll)) }
        if due.contains(.poller) { pair.receiveCompletions.notifyIfSeenArmed() }
        if due.contains(.peer) { wakeSender() }
    }

    private func runReceive(_ pair: SoftQueuePair, _ poll: inout SoftCompletionQueue.Poll) -> Wakeups {
        var due: Wakeups = []
        let isConnected = pair.state.load(ordering: .acquiring) == SoftQueuePair.State.connected.rawValue
        // What had arrived before the peer went is delivered before the rest is flushed.
        let isPeersDoing = isClosedByPeer || pair.isPeerGone.load(ordering: .acquiring)
        if isConnected || isPeersDoing, !isReceiveBroken {
            switch receive(pair, &poll, &due) {
            case .empty: break
            case .batchFull, .completionsFull: return due
            case .failed:
                isReceiveBroken = true
                pair.breakConnection()
            }
        }
        if pair.isBroken { pair.flushReceives() }
        return due
    }
}
