import CLinux
import Glibc
import Kernel
import Synchronization

extension SharedChannel {
    func driveSend(_ pair: SoftQueuePair) { sendDriver.drive { runSend(pair) } }

    private func runSend(_ pair: SoftQueuePair) {
        let queue = pair.sendQueue
        while !queue.isEmpty {
            let index = queue.first
            let entry = queue.entry(index)
            let elements = queue.elements(index)
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
                    queue.retire()
                    continue
                }
                entry.pointee.verdict = status
                entry.pointee.isOver = true
                guard pair.sendCompletions.reserve() else { return }
            }
            pair.complete(entry, status)
        }
    }

    private func askForRegion(_ pair: SoftQueuePair) {
        let key = wantedKey
        if key == 0 || key == askedKey { return }
        if ControlMessage(kind: .wantRegion, key: key).send(on: control) { askedKey = key } else { pair.context.wake() }
    }

    /// The answer about a region has come: on the device's thread.
    func regionArrived(_ key: UInt32, isMapped: Bool, _ pair: SoftQueuePair) {
        if !isMapped { unmappableKey.store(key, ordering: .sequentiallyConsistent) }
        driveSend(pair)
    }

    func driveReceive(_ pair: SoftQueuePair) { receiveDriver.drive { runReceive(pair) } }

    private func runReceive(_ pair: SoftQueuePair) {
        let isConnected = pair.state.load(ordering: .acquiring) == SoftQueuePair.State.connected.rawValue
        // What had arrived before the peer went is delivered before the rest is flushed.
        let isPeersDoing = isClosedByPeer || pair.isPeerGone.load(ordering: .acquiring)
        if isConnected || isPeersDoing, !isReceiveBroken {
            switch receive(pair.receiveQueue, into: pair.receiveCompletions, number: pair.number) {
            case .empty, .batchFull: break
            case .completionsFull: return
            case .failed:
                isReceiveBroken = true
                pair.breakConnection()
            }
        }
        if pair.isBroken { pair.flushReceives() }
    }
}
