import Wire

/// Keys that every daemon has.
public enum CommonKeys {
    public static let listen = ConfigurationKey.address(
        "component.listen", default: NetworkAddress(host: "127.0.0.1", port: 0),
        comment: "Where the other components of the rack connect to this one. Port 0 takes any free port.")

    /// The ways that a fabric device may take, `FabricPath` by name.
    static let paths = ["automatic", "network", "verbs", "tcp", "shared-memory"]

    public static let fabric = ConfigurationKey.word(
        "component.fabric", default: "automatic", of: paths,
        comment: "How this component reaches the others. automatic: by shared memory on the same host, by RDMA verbs "
            + "where both ends have an adapter, else by TCP. network: as automatic, but never by shared memory. The "
            + "others allow one way only; verbs also demands an adapter.")

    public static let adapter = ConfigurationKey.name(
        "component.adapter",
        comment: "The RDMA adapter, such as mlx5_0. Empty: the one that has the address of component.listen.")

    public static let numaNode = ConfigurationKey<Int?>.node(
        "component.numa-node",
        comment: "The NUMA node on whose processors the component runs and whose memory its pool takes. auto: that of "
            + "the RDMA adapter; without one the kernel decides. On a host with one node nothing is done.")

    public static let linkModel = ConfigurationKey<LinkModel?>.linkModel(
        "component.link-model",
        comment:
            "Lets the links to other components take the time of other hardware: a preset, or a latency of at most "
            + "1000000000 ns and a bandwidth of 1000000 to 10000000000000 bytes a second. It adds time to what this "
            + "component sends and asks for, and takes none away. off: they take what they take.")

    public static let linkModelOfPeer = ConfigurationKey<LinkModel?>.linkModel(
        "link.*.model", comment: "The same for the link to one component.")

    /// For the schemas of components with links that have models.
    static let linkTable = [
        "link.*": "What holds for the link to one component only, by its name (memory0, manager, …). Commented out: "
            + "there is no default."
    ]

    public static let logLevel = ConfigurationKey.word(
        "component.log-level", default: "info",
        of: ["trace", "debug", "info", "notice", "warning", "error", "critical"],
        comment: "The least severe entries that are written to standard error.")

    public static let name = ConfigurationKey.name(
        "component.name",
        comment: "The component's name in the rack. Empty: the manager chooses one, such as memory0.")

    public static let manager = ConfigurationKey.address(
        "component.manager", default: NetworkAddress(host: "127.0.0.1", port: 7070),
        comment: "Where the rack's manager listens (its component.listen).")

    /// For the components that join a manager, in the order of the file.
    static let member: [any ConfigurationKeyDescription] = [
        name, manager, listen, fabric, adapter, numaNode, linkModel, logLevel,
    ]

    static func title(_ executable: String, _ what: String) -> [String] {
        [
            "\(executable): \(what)", "",
            "Every key with its default. Start with: \(executable) --config FILE",
            "A flag of the command line wins over this file. Sizes: 512MiB, 1GiB or bytes. Times: 1500ms, 2s.",
        ]
    }
}
