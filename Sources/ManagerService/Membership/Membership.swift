import Wire

/// Who belongs to the rack, and how each of them fares. A state machine without a clock, lock or connection of its own:
/// `now` is monotonic nanoseconds, and never goes back.
///
///     register -> healthy -> suspect (connection broken, or silent for half the lease) -> lost (lease over)
///                    ^----------'  heartbeat
///
/// A lost component is fenced: its heartbeats are refused until it registers again. It stays listed as lost until then,
/// or until a successor takes its name.
struct Membership {
    /// Its whole listing fits one Lite message: 128 members of at most 338 bytes.
    static let components_max = 128

    /// Nanoseconds.
    let lease: UInt64
    /// Grows with every change that other components may want to know of.
    private(set) var epoch: UInt64
    private var byName: [String: Component] = [:]
    private var nameOfNode: [NodeID: String] = [:]

    init(lease: UInt64, epoch: UInt64) {
        self.lease = lease
        self.epoch = epoch
    }

    /// All components, by kind and name.
    /// What the memory components that are not lost have together, and how much of it is in use, in bytes.
    var memory: (capacity: UInt64, used: UInt64) {
        var sum: (capacity: UInt64, used: UInt64) = (0, 0)
        for component in byName.values where component.kind == .memory && component.health != .lost {
            sum.capacity &+= component.capacityBytes
            sum.used &+= component.usedBytes
        }
        return sum
    }

    var components: [Component] {
        byName.values.sorted { left, right in
            left.kind != right.kind ? left.kind.rawValue < right.kind.rawValue : left.name.precedes(right.name)
        }
    }

    func component(named name: String) -> Component? { byName[name] }
    func component(of node: NodeID) -> Component? { nameOfNode[node].flatMap { byName[$0] } }

    /// The components of a kind that new work may go to: those that can be reached, healthy or late.
    func reachable(_ kind: ComponentKind) -> [Component] {
        components.filter { $0.kind == kind && $0.health != .lost && $0.isConnected }
    }

    /// How a registration ended.
    enum Registration: Equatable {
        /// `lost`: the predecessor of that name, whose end is noticed only now.
        case accepted(Component, lost: Component?)
        /// A living component has the name.
        case nameTaken
        case malformed
        /// There are `components_max` already.
        case full
    }

    /// Takes a component in. It may be a new one, one that comes back (after this manager restarted, or from being
    /// lost), or the successor of one whose connection is broken already.
    mutating func register(_ request: ComponentManagerRegister, now: UInt64) -> Registration {
        if request.kind == .manager { return .malformed }
        var name = request.name
        if name.isEmpty {
            name = component(of: request.node)?.name ?? freeName(for: request.kind)
        } else if !Self.isUsable(name) {
            return .malformed
        }
        var lost: Component?
        if let holder = byName[name] {
            if holder.node != request.node {
                if holder.health != .lost, holder.isConnected { return .nameTaken }
                if holder.health != .lost { lost = holder }
                nameOfNode[holder.node] = nil
            }
        } else if byName.count >= Self.components_max {
            return .full
        }
        // The same node under another name: it leaves the old one.
        if let former = nameOfNode[request.node], former != name { byName[former] = nil }
        let component = Component(
            kind: request.kind, name: name, node: request.node, liteAddress: request.liteAddress,
            attachAddress: request.attachAddress, capacityBytes: request.capacityBytes, processID: request.processID,
            hostID: request.hostID, health: .healthy, isConnected: true, leaseEnd: now &+ lease)
        byName[name] = component
        nameOfNode[request.node] = name
        epoch += 1
        lost?.health = .lost
        return .accepted(component, lost: lost)
    }

    /// Renews a lease; false when the node is not a member, or not any more.
    mutating func heartbeat(_ node: NodeID, usedBytes: UInt64, now: UInt64) -> Bool {
        guard let name = nameOfNode[node], var component = byName[name], component.health != .lost else { return false }
        if component.health != .healthy { epoch += 1 }
        component.health = .healthy
        component.isConnected = true
        component.usedBytes = usedBytes
        component.leaseEnd = now &+ lease
        byName[name] = component
        return true
    }

    /// A connection broke: the component is suspect until it is heard of again or its lease is over.
    mutating func disconnected(_ node: NodeID) {
        guard let name = nameOfNode[node], var component = byName[name], component.health != .lost else { return }
        if component.health != .suspect { epoch += 1 }
        component.health = .suspect
        component.isConnected = false
        byName[name] = component
    }

    /// Leases of those who are connected last longer: for some time nobody was listening here, and perhaps nobody could send,
    /// when the host that all are on was paused.
    mutating func postpone(by nanoseconds: UInt64) {
        for name in byName.keys where byName[name]?.isConnected == true { byName[name]?.leaseEnd &+= nanoseconds }
    }

    /// Moves everybody on whose time has come; answers those that are lost from now on.
    mutating func expire(now: UInt64) -> [Component] {
        var lost: [Component] = []
        for (name, var component) in byName where component.health != .lost {
            if now >= component.leaseEnd {
                component.health = .lost
                component.isConnected = false
                lost.append(component)
            } else if component.health == .healthy, now &+ lease / 2 >= component.leaseEnd {
                component.health = .suspect
            } else {
                continue
            }
            epoch += 1
            byName[name] = component
        }
        return lost
    }

    /// Takes over what an earlier manager process knew: the living are suspect until they register again, and lost
    /// `grace` nanoseconds from now if they do not.
    mutating func restore(_ components: [Component], now: UInt64, grace: UInt64) {
        for var component in components {
            if component.health != .lost { component.health = .suspect }
            component.isConnected = false
            component.leaseEnd = now &+ grace
            byName[component.name] = component
            nameOfNode[component.node] = component.name
        }
        // Changes of health are not recorded: the step outruns whatever the earlier process told its peers since it
        // last wrote.
        epoch += 1 << 20
    }

    /// The first of `memory0`, `memory1`, … that nobody alive has.
    private func freeName(for kind: ComponentKind) -> String {
        var index = 0
        while let holder = byName["\(kind.word)\(index)"], holder.health != .lost { index += 1 }
        return "\(kind.word)\(index)"
    }

    /// Letters, digits, dots, dashes and underscores, beginning with a letter or digit: safe in a path, a URL and a
    /// terminal.
    static func isUsable(_ name: String) -> Bool {
        guard let first = name.utf8.first, name.utf8.count <= WireLimit.name_max, name != ComponentKind.manager.word
        else { return false }
        func isAlphanumeric(_ byte: UInt8) -> Bool {
            (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
        }
        return isAlphanumeric(first)
            && name.utf8.allSatisfy { isAlphanumeric($0) || $0 == 0x2D || $0 == 0x2E || $0 == 0x5F }
    }
}
