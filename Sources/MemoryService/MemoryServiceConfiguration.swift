/// How a memory component treats its pool.
public struct MemoryServiceConfiguration: Sendable {
    /// Bytes of the node's pool, from its start, that are the component's; what follows is another service's. nil: all.
    public var poolBytes: Int?
    /// Takes all memory from the host at start-up instead of at first use, and keeps it. Costs some 40 µs per 64 KiB.
    public var prefault = false
    /// Zeroed memory that is kept for the next program rather than given back to the host, in bytes. A first touch of
    /// given-back memory costs the processor some 3 µs a page, of kept memory nothing. nil: an eighth of the pool.
    public var retainedBytes: Int?

    public init() {}
}

/// Why a memory component cannot start. Each case's comment is the operator's message.
public enum MemoryServiceError: Error, Sendable, CustomStringConvertible {
    /// the memory pool has BYTES bytes: at least 65536 are needed
    case poolTooSmall(Int)
    /// cannot take BYTES bytes of memory from the host: REASON
    case prefault(bytes: Int, reason: String)
    /// cannot start the thread that zeroes memory: REASON
    case thread(String)

    public var description: String {
        switch self {
        case .poolTooSmall(let bytes): "the memory pool has \(bytes) bytes: at least 65536 are needed"
        case .prefault(let bytes, let reason):
            "cannot take \(bytes) bytes of memory from the host: \(reason); make the pool smaller or turn prefault off"
        case .thread(let reason): "cannot start the thread that zeroes memory: \(reason)"
        }
    }
}
