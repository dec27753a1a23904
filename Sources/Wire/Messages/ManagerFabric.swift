// The manager asks a component about its links, on behalf of `legoctl fabric`.

/// Answered by `ComponentManagerFabric`.
public struct ManagerComponentFabric: WireMessage, Equatable {
    public init() {}
    public func encode(into writer: inout WireWriter) {}
    public init?(from reader: inout WireReader) {}
}

/// One connection of a component.
public struct FabricLink: WireMessage, Equatable {
    public var peer: NodeID
    /// `shared-memory`, `verbs` or `tcp`.
    public var path: String
    public var reason: String
    /// Whether the component made the connection, and so chose the path.
    public var isInitiator: Bool
    public var queuePairs: UInt32
    /// What the component has posted, and the bytes that went out and came in by it.
    public var requests: UInt64
    public var bytesOut: UInt64
    public var bytesIn: UInt64
    /// As `LinkModel` spells it; empty without one.
    public var model: String

    public init(
        peer: NodeID, path: String, reason: String, isInitiator: Bool, queuePairs: UInt32, requests: UInt64,
        bytesOut: UInt64, bytesIn: UInt64, model: String
    ) {
        self.peer = peer
        self.path = path
        self.reason = reason
        self.isInitiator = isInitiator
        self.queuePairs = queuePairs
        self.requests = requests
        self.bytesOut = bytesOut
        self.bytesIn = bytesIn
        self.model = model
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(peer.rawValue)
        writer.write(path)
        writer.write(reason)
        writer.write(isInitiator)
        writer.write(queuePairs)
        writer.write(requests)
        writer.write(bytesOut)
        writer.write(bytesIn)
        writer.write(model)
    }

    public init?(from reader: inout WireReader) {
        peer = NodeID(rawValue: reader.read())
        path = reader.readString(max: WireLimit.name_max)
        reason = reader.readString(max: WireLimit.reason_max)
        isInitiator = reader.readBool()
        queuePairs = reader.read()
        requests = reader.read()
        bytesOut = reader.read()
        bytesIn = reader.read()
        model = reader.readString(max: WireLimit.name_max)
        if !reader.isValid { return nil }
    }
}

/// A component's fabric device and its connections.
public struct ComponentManagerFabric: WireMessage, Equatable {
    /// What the device consists of: `emulated`, or `emulated + mlx5_0`.
    public var device: String
    /// Why there is no adapter; empty where there is one or none was looked for.
    public var adapterAbsence: String
    public var regions: UInt32
    public var registeredBytes: UInt64
    public var links: [FabricLink]

    public init(
        device: String, adapterAbsence: String, regions: UInt32, registeredBytes: UInt64, links: [FabricLink]
    ) {
        self.device = device
        self.adapterAbsence = adapterAbsence
        self.regions = regions
        self.registeredBytes = registeredBytes
        self.links = links
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(device)
        writer.write(adapterAbsence)
        writer.write(regions)
        writer.write(registeredBytes)
        writer.write(UInt32(truncatingIfNeeded: links.count))
        for link in links { link.encode(into: &writer) }
    }

    public init?(from reader: inout WireReader) {
        device = reader.readString(max: WireLimit.name_max)
        adapterAbsence = reader.readString(max: WireLimit.reason_max)
        regions = reader.read()
        registeredBytes = reader.read()
        let count = Int(reader.read(UInt32.self))
        if count > WireLimit.components_max { return nil }
        links = []
        for _ in 0..<count {
            guard let link = FabricLink(from: &reader) else { return nil }
            links.append(link)
        }
        if !reader.isValid { return nil }
    }
}

/// Lets the component's link to another one follow a model from now on, also after the connection is made anew. Answered
/// by `Acknowledgement`.
public struct ManagerComponentLinkModel: WireMessage, Equatable {
    /// The other component.
    public var peer: String
    /// Empty: none.
    public var model: String

    public init(peer: String, model: String) {
        self.peer = peer
        self.model = model
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(peer)
        writer.write(model)
    }

    public init?(from reader: inout WireReader) {
        peer = reader.readString(max: WireLimit.name_max)
        model = reader.readString(max: WireLimit.name_max)
        guard reader.isValid, !peer.isEmpty, model.isEmpty || LinkModel(model) != nil else { return nil }
    }
}

/// Asks a component to measure its link to a node. Answered by `ComponentManagerMeasured`; `notFound` when it has none,
/// `accessRefused` when the peer's memory cannot be read.
public struct ManagerComponentMeasure: WireMessage, Equatable {
    public var peer: NodeID

    public init(peer: NodeID) { self.peer = peer }
    public func encode(into writer: inout WireWriter) { writer.write(peer.rawValue) }
    public init?(from reader: inout WireReader) {
        peer = NodeID(rawValue: reader.read())
        if !reader.isValid { return nil }
    }
}

/// What READs over a link took.
public struct ComponentManagerMeasured: WireMessage, Equatable {
    /// Of one READ of 64 bytes after another, the median.
    public var latency_ns: UInt64
    /// Of READs of the sizes of `sizes`, several under way at a time; 0 where the peer's memory is smaller.
    public var bytesPerSecond: [UInt64]
    public static let sizes = [64 << 10, 256 << 10, 1 << 20]

    public init(latency_ns: UInt64, bytesPerSecond: [UInt64]) {
        self.latency_ns = latency_ns
        self.bytesPerSecond = bytesPerSecond
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(latency_ns)
        for index in Self.sizes.indices { writer.write(index < bytesPerSecond.count ? bytesPerSecond[index] : 0) }
    }

    public init?(from reader: inout WireReader) {
        latency_ns = reader.read()
        bytesPerSecond = []
        for _ in Self.sizes { bytesPerSecond.append(reader.read()) }
        if !reader.isValid { return nil }
    }
}
