/// Which ways a device may take to its peers.
public enum FabricPath: String, Sendable, CaseIterable {
    /// Shared memory on the same host; verbs where both ends have an adapter; else TCP.
    case automatic
    /// As `automatic`, but peers on the same host count as far ones.
    case network
    /// Verbs alone: a device without an adapter cannot be made, and peers without one are refused.
    case verbs
    /// TCP alone.
    case tcp
    /// Shared memory alone: all peers are on this host.
    case sharedMemory = "shared-memory"

    var mayUseVerbs: Bool { self == .automatic || self == .network || self == .verbs }

    /// What the emulated part of the device may do.
    var softTransport: SoftDeviceConfiguration.Transport {
        switch self {
        case .automatic: .automatic
        case .sharedMemory: .sharedMemory
        case .network, .verbs, .tcp: .tcp
        }
    }
}

/// The habits of a `HybridDevice`.
public struct HybridDeviceConfiguration: Sendable {
    public var path = FabricPath.automatic
    /// The adapter, e.g. `mlx5_0`; empty takes the one that has `address`.
    public var adapter = ""
    /// This host's address on the adapter's network; nil takes the first adapter with an active port. See
    /// `VerbsDeviceConfiguration.address`.
    public var address: String?
    /// Where `allocate` places memory; nil leaves it to the kernel.
    public var memoryNode: Int?
    /// What `allocatePool` takes.
    public var hugePages = HugePages.never
    /// What the times of link models are measured by.
    var clock = LinkClock.monotonic
    public init() {}
    public init(path: FabricPath, address: String? = nil) {
        self.path = path
        self.address = address
    }

    var soft: SoftDeviceConfiguration {
        var soft = SoftDeviceConfiguration(transport: path.softTransport)
        soft.memoryNode = memoryNode
        soft.hugePages = hugePages
        return soft
    }

    var verbs: VerbsDeviceConfiguration {
        VerbsDeviceConfiguration(
            deviceName: adapter.isEmpty ? nil : adapter, address: address, memoryNode: memoryNode)
    }
}
