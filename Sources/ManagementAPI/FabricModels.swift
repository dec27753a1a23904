/// `legoctl fabric`.
public struct FabricStatus: Codable, Sendable, Equatable {
    /// A component's fabric device.
    public struct Device: Codable, Sendable, Equatable {
        public var component: String
        /// `emulated`, or `emulated + ADAPTER`.
        public var device: String
        public var regions: UInt32
        public var registeredBytes: UInt64
        public var links: Int
        public var queuePairs: UInt32
        /// Why there is no adapter, or why the component does not answer; empty where there is nothing to say.
        public var note: String
        public init(
            component: String, device: String, regions: UInt32, registeredBytes: UInt64, links: Int,
            queuePairs: UInt32, note: String
        ) {
            self.component = component
            self.device = device
            self.regions = regions
            self.registeredBytes = registeredBytes
            self.links = links
            self.queuePairs = queuePairs
            self.note = note
        }
    }

    /// A connection between two components; `from` made it.
    public struct Link: Codable, Sendable, Equatable {
        public var from: String
        public var to: String
        /// shared-memory | verbs | tcp
        public var path: String
        /// Why that path.
        public var reason: String
        public var queuePairs: UInt32
        /// Posted by either end.
        public var requests: UInt64
        /// Bytes that went from `from` to `to`, and the other way, whoever asked for them.
        public var bytesForth: UInt64
        public var bytesBack: UInt64
        /// What the two ends' own operations take the time of; empty: what they really take.
        public var modelForth: String
        public var modelBack: String
        public init(
            from: String, to: String, path: String, reason: String, queuePairs: UInt32, requests: UInt64,
            bytesForth: UInt64, bytesBack: UInt64, modelForth: String, modelBack: String
        ) {
            self.from = from
            self.to = to
            self.path = path
            self.reason = reason
            self.queuePairs = queuePairs
            self.requests = requests
            self.bytesForth = bytesForth
            self.bytesBack = bytesBack
            self.modelForth = modelForth
            self.modelBack = modelBack
        }
    }

    public var devices: [Device]
    public var links: [Link]
    public init(devices: [Device], links: [Link]) {
        self.devices = devices
        self.links = links
    }
}

/// `legoctl fabric link set A B MODEL`.
public struct LinkModelRequest: Codable, Sendable, Equatable {
    public var from: String
    public var to: String
    /// The name of a preset, `custom:NANOSECONDS:BYTES_PER_SECOND`, or `off`.
    public var model: String
    public init(from: String, to: String, model: String) {
        self.from = from
        self.to = to
        self.model = model
    }
}

/// What READs of one component from another took.
public struct LinkFigures: Codable, Sendable, Equatable {
    public var from: String
    public var to: String
    /// Median of READs of 64 bytes, one after the other.
    public var latency_ns: UInt64
    /// READs of 64 KiB, 256 KiB and 1 MiB, eight under way at a time; 0 where the other's memory is smaller.
    public var bytesPerSecond: [UInt64]
    public init(from: String, to: String, latency_ns: UInt64, bytesPerSecond: [UInt64]) {
        self.from = from
        self.to = to
        self.latency_ns = latency_ns
        self.bytesPerSecond = bytesPerSecond
    }
}
