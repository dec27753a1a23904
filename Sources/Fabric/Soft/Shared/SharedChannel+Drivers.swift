import CLinux
import Glibc
import Kernel
import Synchronization

extension SharedChannel {
    func driveSend(_ pair: SoftQueuePair) { sendDriver.drive { runSend(pair) } }

    private func runSend(_ pair: SoftQueuePair) {
        let queue = pair.sendQueue
        while !queue.isEmpty {
            guard pair.sendCompletions.reserve() else { return }
            let index = queue.first
            let entry = queue.entry(index)
            let elements = queue.elements(index)
            var status = WorkStatus.flushed
            if pair.state.load(ordering: .acquiring) == SoftQueuePair.State.connected.rawValue {
                var step = execute(entry, elements)
                if case .served = step { step = serve(entry, elements, pair) }
                switch step {
                case .finished(let result): status = result
                case .waitingForReceive where !pair.mayWaitForReceive(): status = .receiverNotReady
                case .waitingForReceive:
                    pair.sendCompletions.cancelReservation()
                    return
                case .waiting, .served:
                    pair.sendCompletions.cancelReservation()
                    askForRegion(pair)
                    return
                }
            }
            pair.stopWaitingForReceive()
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
            case .empty: break
            case .completionsFull: return
            case .failed:
                isReceiveBroken = true
                pair.breakConnection()
            }
        }
        if pair.isBroken { pair.flushReceives() }
    }
}
