// Components speak to the manager: registration, heartbeats, membership.

/// A component joins the rack, or joins it again after the manager restarted. Answered by `ManagerComponentRegistered`;
/// `Status.exists` when a living component has the name.
public struct ComponentManagerRegister: WireMessage, Equatable {
    public var kind: ComponentKind
    /// Empty: the manager chooses one (`memory0`, `memory1`, …).
    public var name: String
    public var node: NodeID
    /// Where peers connect to the component's Lite node, `HOST:PORT`.
    public var liteAddress: String
    /// Where `legoctl` attaches to programs (processors only, else empty).
    public var attachAddress: String
    /// What the component offers, in bytes: pool, ExCache or file system size.
    public var capacityBytes: UInt64
    public var processID: UInt32
    /// Tells hosts apart: /proc/sys/kernel/random/boot_id.
    public var hostID: String

    public init(
        kind: ComponentKind, name: String, node: NodeID, liteAddress: String, attachAddress: String,
        capacityBytes: UInt64, processID: UInt32, hostID: String
    ) {
        self.kind = kind
        self.name = name
        self.node = node
        self.liteAddress = liteAddress
        self.attachAddress = attachAddress
        self.capacityBytes = capacityBytes
        self.processID = processID
        self.hostID = hostID
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(kind.rawValue)
        writer.write(name)
        writer.write(node.rawValue)
        writer.write(liteAddress)
        writer.write(attachAddress)
        writer.write(capacityBytes)
        writer.write(processID)
        writer.write(hostID)
    }

    public init?(from reader: inout WireReader) {
        guard let kind = ComponentKind(rawValue: reader.read()) else { return nil }
        self.kind = kind
        name = reader.readString(max: WireLimit.name_max)
        node = NodeID(rawValue: reader.read())
        liteAddress = reader.readString(max: WireLimit.address_max)
        attachAddress = reader.readString(max: WireLimit.address_max)
        capacityBytes = reader.read()
        processID = reader.read()
        hostID = reader.readString(max: WireLimit.name_max)
        if !reader.isValid || node.rawValue == 0 { return nil }
    }
}

public struct ManagerComponentRegistered: WireMessage, Equatable {
    /// The component's name from now on.
    public var name: String
    /// The lease; a component that is silent for longer is lost.
    public var leaseMilliseconds: UInt32
    /// Grows with every change of the membership.
    public var membershipEpoch: UInt64

    public init(name: String, leaseMilliseconds: UInt32, membershipEpoch: UInt64) {
        self.name = name
        self.leaseMilliseconds = leaseMilliseconds
        self.membershipEpoch = membershipEpoch
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(name)
        writer.write(leaseMilliseconds)
        writer.write(membershipEpoch)
    }

    public init?(from reader: inout WireReader) {
        name = reader.readString(max: WireLimit.name_max)
        leaseMilliseconds = reader.read()
        membershipEpoch = reader.read()
        if !reader.isValid { return nil }
    }
}

/// Renews the lease. Answered by `ManagerComponentHeartbeat`; `Status.fenced` tells the component to register again.
public struct ComponentManagerHeartbeat: WireMessage, Equatable {
    public var node: NodeID
    public var usedBytes: UInt64

    public init(node: NodeID, usedBytes: UInt64) {
        self.node = node
        self.usedBytes = usedBytes
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(node.rawValue)
        writer.write(usedBytes)
    }

    public init?(from reader: inout WireReader) {
        node = NodeID(rawValue: reader.read())
        usedBytes = reader.read()
        if !reader.isValid { return nil }
    }
}

public struct ManagerComponentHeartbeat: WireMessage, Equatable {
    public var membershipEpoch: UInt64
    /// What all memory components have together, and how much of it is in use, in bytes.
    public var memoryBytes: UInt64
    public var memoryUsedBytes: UInt64

    public init(membershipEpoch: UInt64, memoryBytes: UInt64 = 0, memoryUsedBytes: UInt64 = 0) {
        self.membershipEpoch = membershipEpoch
        self.memoryBytes = memoryBytes
        self.memoryUsedBytes = memoryUsedBytes
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(membershipEpoch)
        writer.write(memoryBytes)
        writer.write(memoryUsedBytes)
    }

    public init?(from reader: inout WireReader) {
        membershipEpoch = reader.read()
        memoryBytes = reader.read()
        memoryUsedBytes = reader.read()
        if !reader.isValid { return nil }
    }
}

/// Asks for the membership; no fields.
public struct ComponentManagerMembership: WireMessage, Equatable {
    public init() {}
    public func encode(into writer: inout WireWriter) {}
    public init?(from reader: inout WireReader) {}
}

/// One member of the rack.
public struct RackMember: WireMessage, Equatable {
    public enum Health: UInt8, Sendable, Codable {
        case healthy = 0
        /// Its connection broke or its heartbeat is late, and its lease runs.
        case suspect = 1
        case lost = 2

        public var word: String {
            switch self {
            case .healthy: "healthy"
            case .suspect: "suspect"
            case .lost: "lost"
            }
        }
    }
    public var kind: ComponentKind
    public var health: Health
    public var name: String
    public var node: NodeID
    public var liteAddress: String

    public init(kind: ComponentKind, health: Health, name: String, node: NodeID, liteAddress: String) {
        self.kind = kind
        self.health = health
        self.name = name
        self.node = node
        self.liteAddress = liteAddress
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(kind.rawValue)
        writer.write(health.rawValue)
        writer.write(name)
        writer.write(node.rawValue)
        writer.write(liteAddress)
    }

    public init?(from reader: inout WireReader) {
        guard let kind = ComponentKind(rawValue: reader.read()), let health = Health(rawValue: reader.read()) else {
            return nil
        }
        self.kind = kind
        self.health = health
        name = reader.readString(max: WireLimit.name_max)
        node = NodeID(rawValue: reader.read())
        liteAddress = reader.readString(max: WireLimit.address_max)
        if !reader.isValid { return nil }
    }
}

public struct ManagerComponentMembership: WireMessage, Equatable {
    public var epoch: UInt64
    public var members: [RackMember]

    public init(epoch: UInt64, members: [RackMember]) {
        self.epoch = epoch
        self.members = members
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(epoch)
        writer.write(UInt32(truncatingIfNeeded: members.count))
        for member in members { member.encode(into: &writer) }
    }

    public init?(from reader: inout WireReader) {
        epoch = reader.read()
        let count = Int(reader.read(UInt32.self))
        if count > WireLimit.components_max { return nil }
        members = []
        for _ in 0..<count {
            guard let member = RackMember(from: &reader) else { return nil }
            members.append(member)
        }
        if !reader.isValid { return nil }
    }
}

/// The manager tells a component to end at once, as SIGKILL would (`legoctl component kill`). Answered by `Acknowledgement`,
/// unless the component is faster.
public struct ManagerComponentTerminate: WireMessage, Equatable {
    public init() {}
    public func encode(into writer: inout WireWriter) {}
    public init?(from reader: inout WireReader) {}
}

/// An answer without content: the status says it all.
public struct Acknowledgement: WireMessage, Equatable {
    public init() {}
    public func encode(into writer: inout WireWriter) {}
    public init?(from reader: inout WireReader) {}
}
