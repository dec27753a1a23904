/// The configuration of `lego-lite`.
public enum LiteKeys {
    public static let name = ConfigurationKey<String>.name(
        "component.name", comment: "The node's name in the cluster. Empty: the name of this host.")

    public static let listen = ConfigurationKey.address(
        "component.listen", default: NetworkAddress(host: "127.0.0.1", port: 7090),
        comment: "Where other nodes connect to this one. Port 0 takes any free port.")

    public static let peers = ConfigurationKey.addresses(
        "lite.peers",
        comment:
            "Other nodes of the cluster (their component.listen); those that they know are found through them. One that "
            + "cannot be reached is tried again and again.")

    public static let socket = ConfigurationKey<String>.path(
        "lite.socket", default: "/run/lego/lite.sock",
        comment: "Where programs of this host join. They are told apart by process and user.")

    public static let arena = ConfigurationKey.size(
        "lite.arena", default: 1 << 30, atLeast: 1 << 20,
        comment: "The memory that this node offers to the cluster. Registered once; taken from the host as it is used.")

    public static let queuePairs = ConfigurationKey.integer(
        "lite.queue-pairs", default: 4, in: 2...16,
        comment: "Queue pairs to each other node, shared by all programs (K). The lesser of two nodes' numbers is used."
    )

    public static let reservedQueuePairs = ConfigurationKey.integer(
        "lite.reserved-queue-pairs", default: 0, in: 0...15,
        comment:
            "How many of them carry only what programs of high priority transfer. Fewer than lite.queue-pairs.")

    public static let threads = ConfigurationKey.integer(
        "lite.threads", default: 64, in: 4...1024,
        comment:
            "Most threads that serve programs. One looks for work, the others wait for other nodes; they are started as "
            + "they are needed.")

    public static let threadsPerNode = ConfigurationKey.integer(
        "lite.node-threads", default: 4, in: 1...64,
        comment:
            "How many of them wait for the same node: as many transfers with a node on another host go on at a time, and "
            + "a node that does not answer holds no more. What else is meant for it waits without a thread.")

    public static let buffers = ConfigurationKey.size(
        "lite.buffers", default: 1 << 30, atLeast: 1 << 20,
        comment: "Memory that one program may share with the daemon (lite_buffer_alloc).")

    public static let spin = ConfigurationKey.duration(
        "lite.spin", default: .microseconds(30), in: .zero...(.milliseconds(10)),
        comment:
            "How long the serving thread goes on looking for work before it sleeps, where that pays.")

    public static let softwarePriority = ConfigurationKey.boolean(
        "lite.software-priority", default: true,
        comment: "Whether programs of low priority give way while those of high priority are busy.")

    public static let schema = ConfigurationSchema(
        title: CommonKeys.title("lego-lite", "LITE for the programs of a host"),
        keys: [
            name, listen, CommonKeys.logLevel, peers, socket, arena, queuePairs, reservedQueuePairs, threads,
            threadsPerNode, buffers, spin, softwarePriority, MemoryKeys.hugePages,
        ])
}

extension ConfigurationKey where Value == [NetworkAddress] {
    /// Addresses in one text, separated by commas; none by default.
    static func addresses(_ path: String, comment: String) -> Self {
        Self(
            path, default: [], literal: "\"\"",
            allowed: "HOST:PORT or [IPV6]:PORT, several separated by commas, or \"\"", comment: comment
        ) { setting in
            guard case .text(let text) = setting else { return nil }
            let parts = text.split(separator: ",").map { $0.trimmed }
            let addresses = parts.compactMap { NetworkAddress($0) }
            return addresses.count == parts.count && addresses.count <= 64 ? addresses : nil
        }
    }
}

extension Substring {
    /// Without spaces at either end.
    fileprivate var trimmed: String {
        String(drop { $0 == " " }.reversed().drop { $0 == " " }.reversed())
    }
}
