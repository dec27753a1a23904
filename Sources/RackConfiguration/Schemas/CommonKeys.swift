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
        name, manager, listen, fabric, adapter, logLevel,
    ]

    static func title(_ executable: String, _ what: String) -> [String] {
        [
            "\(executable): \(what)", "",
            "Every key with its default. Start with: \(executable) --config FILE",
            "A flag of the command line wins over this file. Sizes: 512MiB, 1GiB or bytes. Times: 1500ms, 2s.",
        ]
    }
}
