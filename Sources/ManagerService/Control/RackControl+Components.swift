import Kernel
import Lite
import Wire

// Components: registration, leases, membership, loss.
extension RackControl {
    func register(_ peer: LitePeer, _ request: ComponentManagerRegister) -> (Status, ManagerComponentRegistered?) {
        if request.node != peer.id { return (.malformed, nil) }
        let time = now()
        let (outcome, epoch) = state.withLock { state in
            (state.membership.register(request, now: time), state.membership.epoch)
        }
        switch outcome {
        case .malformed:
            logger.warning("refused a registration: unusable name", metadata: ["name": "\(request.name.prefix(64))"])
            return (.malformed, nil)
        case .nameTaken: return (.exists, nil)
        case .full:
            logger.error("refused a registration: there are \(Membership.components_max) components already")
            return (.noSpace, nil)
        case .accepted(let component, let predecessor):
            do {
                try store.keep([component], epoch: epoch)
            } catch {
                logger.error("\(error)")
                return (.busy, nil)
            }
            if let predecessor { reactions.submit { self.handleLoss(of: [predecessor], epoch: epoch) } }
            // A processor tells what it runs with its next heartbeats; until then it is not asked.
            let askAfter = now() &+ configuration.recoveryGrace.wholeNanoseconds
            state.withLock { $0.running.processorReturned(component.node, askAfter: askAfter) }
            logger.info(
                "component joined",
                metadata: [
                    "name": "\(component.name)", "kind": "\(component.kind.word)", "node": "\(component.node)",
                    "address": "\(component.liteAddress)",
                ])
            let lease = UInt32(clamping: configuration.lease.wholeNanoseconds / 1_000_000)
            return (
                .ok,
                ManagerComponentRegistered(name: component.name, leaseMilliseconds: lease, membershipEpoch: epoch)
            )
        }
    }

    func heartbeat(_ peer: LitePeer, _ beat: ComponentManagerHeartbeat) -> (Status, ManagerComponentHeartbeat?) {
        if beat.node != peer.id { return (.malformed, nil) }
        let time = now()
        let (isMember, epoch, memory) = state.withLock { state in
            (
                state.membership.heartbeat(beat.node, usedBytes: beat.usedBytes, now: time), state.membership.epoch,
                state.membership.memory
            )
        }
        if !isMember { return (.fenced, nil) }
        return (
            .ok,
            ManagerComponentHeartbeat(
                membershipEpoch: epoch, memoryBytes: memory.capacity, memoryUsedBytes: memory.used)
        )
    }

    func membership(_ peer: LitePeer) -> (Status, ManagerComponentMembership?) {
        state.withLock { state in
            guard state.membership.component(of: peer.id) != nil else { return (.fenced, nil) }
            let members = state.membership.components.map(\.member)
            return (.ok, ManagerComponentMembership(epoch: state.membership.epoch, members: members))
        }
    }

    func peerLost(_ peer: LitePeer) {
        state.withLock { $0.membership.disconnected(peer.id) }
        logger.info("a connection ended", metadata: ["node": "\(peer.id)"])
    }

    /// What follows when components are lost. Calls and writes: for the reactions only.
    func handleLoss(of lost: [Component], epoch: UInt64) {
        for component in lost {
            logger.warning("component lost", metadata: ["name": "\(component.name)", "node": "\(component.node)"])
            events.losses(component.kind).increment()
            // Should it live on, it can reach nothing here, and learns that it has to register again.
            if let peer = node.peer(component.node) { node.disconnect(peer) }
        }
        do {
            // A name may have been taken by a successor meanwhile, whose record stands.
            let current = state.withLock { state in
                lost.filter { state.membership.component(named: $0.name)?.node == $0.node }
            }
            try store.keep(current, epoch: epoch)
        } catch {
            logger.error("\(error)")
        }
        for processor in lost where processor.kind == .processor {
            let records = state.withLock { state in
                state.running.on(processor: processor.node).compactMap { state.running[$0]?.record }
            }
            endOrphans(records)
            releaseMemory(of: processor)
        }
    }

    /// Tells every memory component that a processor is no more. Each of them notices a broken connection by itself
    /// too.
    private func releaseMemory(of processor: Component) {
        let memories = state.withLock { state in
            state.membership.components.filter { $0.kind == .memory && $0.health != .lost }
        }
        let request = MemoryReleaseOwner(processor: processor.node, program: ProgramID(rawValue: 0))
        for memory in memories {
            guard let peer = node.peer(memory.node) else { continue }
            let status = node.call(
                peer, RackFunction.releaseOwner, request, answer: Acknowledgement.self, until: .after(Self.callLimit)
            ).status
            if !status.isOK {
                logger.warning(
                    "a memory component did not release a lost processor's memory",
                    metadata: ["memory": "\(memory.name)", "status": "\(status.rawValue)"])
            }
        }
    }

    /// Chooses where a vRegion of a program goes.
    func place(_ peer: LitePeer, _ request: ProcessorManagerPlace) -> (Status, ManagerProcessorPlace?) {
        state.withLock { state in
            guard let processor = state.membership.component(of: peer.id), processor.kind == .processor,
                processor.health != .lost
            else { return (.fenced, nil) }
            guard let entry = state.running[request.program], entry.record.processorNode == peer.id else {
                return (.notFound, nil)
            }
            let placed = state.running.countByMemory
            let candidates = state.membership.reachable(.memory).map {
                MemoryCandidate(
                    node: $0.node, name: $0.name, capacityBytes: $0.capacityBytes, usedBytes: $0.usedBytes,
                    placedPrograms: placed[$0.node] ?? 0, isLate: $0.health != .healthy)
            }
            let choice = MemoryPlacement.choose(
                candidates, used: entry.placements, excluded: Set(request.excluded))
            guard let choice, let memory = state.membership.component(of: choice.node) else { return (.noSpace, nil) }
            if entry.placements.last != memory.node {
                state.running[request.program]?.placements.removeAll { $0 == memory.node }
                state.running[request.program]?.placements.append(memory.node)
            }
            return (
                .ok,
                ManagerProcessorPlace(memory: memory.node, name: memory.name, liteAddress: memory.liteAddress)
            )
        }
    }
}
