import Fabric

/// The sizes and habits of a node's LITE service.
public struct LiteServiceConfiguration: Sendable {
    /// The node's name in the cluster.
    public var name: String
    /// Where programs of this host join: an absolute path, made with mode 0666, as programs are told apart by who they
    /// are.
    public var socketPath: String
    /// Other nodes to connect to; those that they know are found through them.
    public var peers: [FabricAddress] = []
    /// The part of the node's pool that is the arena, from its end: the rest is the owner's. Multiples of 4096.
    public var arenaBytes: UInt64
    /// Most threads that serve programs, at least 4: one looks for work, the others wait for nodes. They are started as
    /// they are needed.
    public var threads = 64
    /// How many of them wait for the same node at a time; what else is meant for that node waits without a thread.
    public var threadsPerNode = 4
    /// Bytes of buffers that one program may have.
    public var bufferBytes_max: UInt64 = 1 << 30
    /// How long the thread that looks for work goes on looking before it sleeps.
    public var spin: Duration = .microseconds(30)
    /// Channels of all programs together, at most 65536.
    public var channels_max = 4096
    /// How long another node may take to answer.
    public var nodeTimeout: Duration = .seconds(10)
    /// How long setting up the connections to another node may take; the others wait meanwhile.
    public var connectTimeout: Duration = .seconds(5)
    /// How long memory is kept from reuse when the node that managed it is lost: others may not have noticed yet.
    public var quarantine: Duration = .seconds(10)
    /// Whether programs of low priority give way while those of high priority are busy (LITE §6.2, SW-Pri).
    public var softwarePriority = true

    /// Whether the arena's pages are joined into huge ones where the pool is not of such already.
    public var joinsPages = true

    public init(name: String, socketPath: String, arenaBytes: UInt64) {
        self.name = name
        self.socketPath = socketPath
        self.arenaBytes = arenaBytes
    }
}

/// Why the service does not start: one line.
public struct LiteServiceError: Error, Sendable, CustomStringConvertible {
    public let description: String
    init(_ description: String) { self.description = description }
}
