import Fabric
import Kernel
import Wire

/// What a component of the rack tells of its fabric, see `legoctl fabric`.
extension LiteNode where Device == RackDevice {
    /// The device and the connections.
    public var fabricReport: ComponentManagerFabric {
        let status = device.status
        return ComponentManagerFabric(
            device: status.adapter.map { "emulated + \($0)" } ?? "emulated",
            adapterAbsence: String((device.adapterAbsence.map { "\($0)" } ?? "").prefix(200)),
            regions: UInt32(clamping: status.regions), registeredBytes: UInt64(clamping: status.registeredBytes),
            links: links.map { link in
                FabricLink(
                    peer: link.peer, path: link.kind.rawValue, reason: link.reason, isInitiator: link.isInitiator,
                    queuePairs: UInt32(clamping: link.queuePairs), requests: link.traffic.requests,
                    bytesOut: link.traffic.bytesOut, bytesIn: link.traffic.bytesIn,
                    model: link.model.map { "\($0)" } ?? "")
            })
    }

    /// What READs from a node take; `notFound` where it is no peer, else as `measure`.
    public func measureLink(to id: NodeID, until deadline: Deadline) -> (Status, ComponentManagerMeasured?) {
        guard let peer = peer(id) else { return (.notFound, nil) }
        let (status, result) = measure(peer, sizes: ComponentManagerMeasured.sizes, until: deadline)
        return (
            status,
            result.map { ComponentManagerMeasured(latency_ns: $0.latency_ns, bytesPerSecond: $0.bytesPerSecond) }
        )
    }
}
