import Kernel
import Lite
import ManagementAPI
import Wire

// What `legoctl fabric` asks and orders. All of it calls components, and runs on the pool.
extension RackControl {
    /// What a measurement may take.
    private static let measureLimit = Duration.seconds(8)

    /// Devices and links as the components see them now. One that does not answer is listed with the reason.
    func fabric() -> FabricStatus {
        let components = state.withLock { $0.membership.components }
        var names = Dictionary(components.map { ($0.node, $0.name) }, uniquingKeysWith: { first, _ in first })
        names[node.id] = ComponentKind.manager.word
        var status = FabricStatus(devices: [], links: [])
        var ends: [(from: NodeID, link: FabricLink)] = []
        let reports =
            [(ComponentKind.manager.word, node.id, .success(node.fabricReport))]
            + components.map { ($0.name, $0.node, ask($0)) }
        for (name, id, report) in reports {
            switch report {
            case .success(let fabric):
                status.devices.append(
                    FabricStatus.Device(
                        component: name, device: fabric.device, regions: fabric.regions,
                        registeredBytes: fabric.registeredBytes, links: fabric.links.count,
                        queuePairs: fabric.links.reduce(0) { $0 &+ $1.queuePairs }, note: fabric.adapterAbsence))
                ends += fabric.links.map { (id, $0) }
            case .failure(let silence):
                status.devices.append(
                    FabricStatus.Device(
                        component: name, device: "-", regions: 0, registeredBytes: 0, links: 0, queuePairs: 0,
                        note: silence.reason))
            }
        }
        // Each link is told by both its ends; the one that made it comes first and names the reason.
        for (from, link) in ends where link.isInitiator || !ends.contains(where: { Self.isOther($0, from, link) }) {
            let other = ends.first { Self.isOther($0, from, link) }?.link
            status.links.append(Self.link(from, link, other, names))
        }
        return status
    }

    private static func isOther(_ end: (from: NodeID, link: FabricLink), _ from: NodeID, _ link: FabricLink) -> Bool {
        end.from == link.peer && end.link.peer == from && end.link.isInitiator != link.isInitiator
    }

    private static func link(_ from: NodeID, _ link: FabricLink, _ other: FabricLink?, _ names: [NodeID: String])
        -> FabricStatus.Link
    {
        FabricStatus.Link(
            from: names[from] ?? "node \(from)", to: names[link.peer] ?? "node \(link.peer)", path: link.path,
            reason: link.reason, queuePairs: link.queuePairs, requests: link.requests &+ (other?.requests ?? 0),
            bytesForth: link.bytesOut &+ (other?.bytesIn ?? 0), bytesBack: link.bytesIn &+ (other?.bytesOut ?? 0),
            modelForth: link.model, modelBack: other?.model ?? "")
    }

    /// Why a component tells nothing: one line.
    private struct Silence: Error { let reason: String }

    private func ask(_ component: Component) -> Result<ComponentManagerFabric, Silence> {
        if component.health == .lost { return .failure(Silence(reason: "lost")) }
        guard let peer = node.peer(component.node) else { return .failure(Silence(reason: "not reachable")) }
        let answer = node.call(
            peer, RackFunction.fabric, ManagerComponentFabric(), answer: ComponentManagerFabric.self,
            until: .after(Self.callLimit))
        guard answer.status.isOK, let fabric = answer.response else {
            return .failure(Silence(reason: Self.text(of: answer.status, at: component.name)))
        }
        return .success(fabric)
    }

    func measureLink(from: String, to: String, caller: Caller) throws(APIError) -> LinkFigures {
        if !caller.isRoot { throw APIError(403, "only root may measure links: it takes their time; use sudo") }
        let other = try end(to)
        let answer: (status: Status, response: ComponentManagerMeasured?)
        if from == ComponentKind.manager.word {
            answer = node.measureLink(to: other.node, until: .after(Self.measureLimit))
        } else {
            let request = ManagerComponentMeasure(peer: other.node)
            answer = node.call(
                try reachable(from), RackFunction.measureLink, request, answer: ComponentManagerMeasured.self,
                until: .after(Self.measureLimit))
        }
        switch answer.status {
        case .ok: break
        case .notFound: throw Self.noLink(from, to)
        case .accessRefused: throw APIError(409, "\(to) lets nobody read its memory; measure from \(to) to \(from)")
        default: throw APIError(503, Self.text(of: answer.status, at: from))
        }
        let figures = answer.response
        return LinkFigures(
            from: from, to: to, latency_ns: figures?.latency_ns ?? 0, bytesPerSecond: figures?.bytesPerSecond ?? [])
    }

    /// Both ends follow the model, each for what it asks of the other.
    func setLinkModel(_ request: LinkModelRequest, caller: Caller) throws(APIError) {
        if !caller.isRoot { throw APIError(403, "only root may slow links down; use sudo") }
        guard request.model == "off" || LinkModel(request.model) != nil else {
            throw APIError(
                422, "there is no link model '\(request.model.prefix(64))'; there are: off, \(LinkModel.allowed)")
        }
        if request.from == request.to { throw APIError(422, "a link has two ends; \(request.from) is named twice") }
        // Both are looked for before either is changed.
        let ends = [(try end(request.from), request.to), (try end(request.to), request.from)]
        for (component, _) in ends where component.node != node.id { _ = try reachable(component.name) }
        let model = request.model == "off" ? "" : request.model
        for (component, other) in ends {
            let status: Status
            if component.node == node.id {
                status = setOwnModel(LinkModel(model), ofLinkTo: other)
            } else {
                status =
                    node.call(
                        try reachable(component.name), RackFunction.linkModel,
                        ManagerComponentLinkModel(peer: other, model: model), answer: Acknowledgement.self,
                        until: .after(Self.callLimit)
                    ).status
            }
            if !status.isOK { throw APIError(503, Self.text(of: status, at: component.name)) }
        }
        logger.notice(
            "link model", metadata: ["from": "\(request.from)", "to": "\(request.to)", "model": "\(request.model)"])
    }

    private func setOwnModel(_ model: LinkModel?, ofLinkTo name: String) -> Status {
        guard let component = state.withLock({ $0.membership.component(named: name) }),
            let peer = node.peer(component.node)
        else { return .notFound }
        do throws(LiteError) {
            try node.setLinkModel(model, for: peer)
            return .ok
        } catch {
            return .busy
        }
    }

    /// The component of that name, or the manager.
    private func end(_ name: String) throws(APIError) -> (name: String, node: NodeID) {
        if name == ComponentKind.manager.word { return (name, node.id) }
        let (component, names) = state.withLock {
            ($0.membership.component(named: name), $0.membership.components.map(\.name))
        }
        guard let component else {
            throw APIError(
                404,
                "there is no component '\(name.prefix(64))'; the rack has \((["manager"] + names).joined(separator: ", "))"
            )
        }
        return (name, component.node)
    }

    private func reachable(_ name: String) throws(APIError) -> LitePeer {
        guard let peer = node.peer(try end(name).node) else {
            throw APIError(503, "\(name) is not reachable at the moment; try again")
        }
        return peer
    }

    private static func noLink(_ from: String, _ to: String) -> APIError {
        APIError(409, "there is no link from \(from) to \(to); 'legoctl fabric' lists those that there are")
    }
}
