import Fabric
import Kernel
import Lite
import Logging
import RackConfiguration
import Synchronization
import Wire

/// A component's part of `legoctl fabric`: says what links it has, measures them, and keeps their models: from its
/// configuration, and what it is told while it runs.
///
/// Lock order: `state` is a leaf.
final class FabricDesk: Sendable {
    private struct State {
        /// For the links to components by name; nil: none.
        var models: [String: LinkModel?]
        var names: [NodeID: String] = [:]
    }

    private let defaultModel: LinkModel?
    private let logger: Logger
    private let state: Mutex<State>
    /// What `measure` may take.
    private static let measureLimit = Duration.seconds(5)

    init(_ settings: Settings, logger: Logger) {
        defaultModel = settings[CommonKeys.linkModel]
        self.logger = logger
        var models: [String: LinkModel?] = [:]
        for (name, _) in settings.names(below: "link") {
            if let model = settings[CommonKeys.linkModelOfPeer, name: name] { models[name] = .some(model) }
        }
        state = Mutex(State(models: models))
    }

    /// For `LiteConfiguration.linkModel`.
    func model(of node: NodeID) -> LinkModel? {
        state.withLock { state in state.names[node].flatMap { state.models[$0] } ?? defaultModel }
    }

    /// Offers the functions. Before the node's start. `isManager` says who may ask.
    func register(on node: RackNode, isManager: @escaping @Sendable (LitePeer) -> Bool) {
        node.register(RackFunction.fabric, ManagerComponentFabric.self, ComponentManagerFabric.self) { peer, _ in
            isManager(peer) ? (.ok, node.fabricReport) : (.fenced, nil)
        }
        node.register(RackFunction.linkModel, ManagerComponentLinkModel.self, Acknowledgement.self) { peer, message in
            guard isManager(peer) else { return (.fenced, nil) }
            return (self.set(LinkModel(message.model), ofLinkTo: message.peer, node), Acknowledgement())
        }
        node.register(RackFunction.measureLink, ManagerComponentMeasure.self, ComponentManagerMeasured.self) {
            peer, message in
            guard isManager(peer) else { return (.fenced, nil) }
            return node.measureLink(to: message.peer, until: .after(Self.measureLimit))
        }
    }

    /// Takes new names; links of known ones may have come before their names.
    func membershipChanged(_ members: [RackMember], manager: NodeID?, _ node: RackNode) {
        state.withLock { state in
            state.names = Dictionary(members.map { ($0.node, $0.name) }, uniquingKeysWith: { first, _ in first })
            if let manager { state.names[manager] = ComponentKind.manager.word }
        }
        let hasNames = state.withLock { !$0.models.isEmpty }
        if hasNames { apply(node) }
    }

    private func set(_ model: LinkModel?, ofLinkTo name: String, _ node: RackNode) -> Status {
        state.withLock { $0.models[name] = .some(model) }
        logger.info("link model", metadata: ["peer": "\(name)", "model": "\(model.map { "\($0)" } ?? "off")"])
        return apply(node)
    }

    @discardableResult
    private func apply(_ node: RackNode) -> Status {
        var status = Status.ok
        for link in node.links {
            let wanted = model(of: link.peer)
            guard wanted != link.model, let peer = node.peer(link.peer) else { continue }
            do throws(LiteError) {
                try node.setLinkModel(wanted, for: peer)
            } catch {
                logger.warning("a link takes no model", metadata: ["reason": "\(error)"])
                status = .busy
            }
        }
        return status
    }
}
