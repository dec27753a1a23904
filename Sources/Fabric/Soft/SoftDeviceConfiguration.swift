/// The habits of a `SoftDevice`.
public struct SoftDeviceConfiguration: Sendable {
    public enum Transport: String, Sendable, CaseIterable {
        /// Shared memory where the peer is on the same host, else TCP.
        case automatic
        /// Shared memory; a peer that cannot be reached so is refused.
        case sharedMemory = "shared-memory"
        case tcp
    }

    public var transport = Transport.automatic
    /// How long a message waits for the peer to post a receive before it fails as `receiverNotReady`.
    public var receiverNotReadyTimeout: Duration = .seconds(2)
    /// How long a peer may leave data or a probe unanswered before the connection counts as lost (TCP only: on the same
    /// host the kernel reports a death at once).
    public var peerTimeout: Duration = .seconds(5)
    /// How long a deregistration waits for an access of a peer that has been stopped in the middle of it. What it
    /// writes afterwards lands in the region's abandoned memory file.
    public var quietTimeout: Duration = .seconds(10)
    /// How long `close` waits for the peers to end what they have under way.
    public var closeTimeout: Duration = .milliseconds(500)

    /// The NUMA node that `allocate` takes memory from; nil leaves it to the kernel.
    public var memoryNode: Int?
    /// What `allocatePool` takes.
    public var hugePages = HugePages.never

    public init() {}
    public init(transport: Transport) { self.transport = transport }
}
