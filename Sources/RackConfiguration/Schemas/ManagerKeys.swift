/// The configuration of `lego-manager`.
public enum ManagerKeys {
    public static let listen = ConfigurationKey.address(
        "component.listen", default: NetworkAddress(host: "127.0.0.1", port: 7070),
        comment: "Where the components of the rack connect. Port 0 takes any free port.")

    public static let api = ConfigurationKey.address(
        "manager.api", default: NetworkAddress(host: "127.0.0.1", port: 7071),
        comment: "Where legoctl connects (HTTP). Callers are known by the owner of their connection, so this is a "
            + "loopback address. Port 0 takes any free port.")

    public static let state = ConfigurationKey<String>.path(
        "manager.state", default: "/var/lib/lego/manager",
        comment: "Where the table of programs is kept. It survives restarts.")

    public static let lease = ConfigurationKey.duration(
        "manager.lease", default: .milliseconds(1500), in: .milliseconds(200) ... .seconds(60),
        comment: "How long a component may be silent before it is lost. It renews four times in that span.")

    public static let schema = ConfigurationSchema(
        title: CommonKeys.title("lego-manager", "the rack's global resource manager"),
        keys: [
            listen, CommonKeys.fabric, CommonKeys.adapter, CommonKeys.linkModel, CommonKeys.logLevel, api, state, lease,
        ])
}
