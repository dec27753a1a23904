/// The configuration of `lego-storage`.
public enum StorageKeys {
    public static let tree = ConfigurationKey.word(
        "storage.tree", default: "overlay", of: ["overlay", "directory"],
        comment:
            "What is exported: \"overlay\" shows storage.path and keeps all changes in storage.state; \"directory\" exports "
            + "storage.path itself, and changes go there.")

    public static let path = ConfigurationKey<String>.path(
        "storage.path", default: "/", comment: "The directory that programs see as their root.")

    public static let state = ConfigurationKey<String>.path(
        "storage.state", default: "/var/lib/lego/storage",
        comment: "Where an overlay keeps what programs changed. It survives restarts.")

    public static let isReadOnly = ConfigurationKey.boolean(
        "storage.read-only", default: false, comment: "Whether every change is refused.")

    public static let hide = ConfigurationKey<String>.path(
        "storage.hide", default: "", mayBeEmpty: true,
        comment: "A directory of this host that programs must not see, beside storage.state. Empty: none.")

    public static let schema = ConfigurationSchema(
        title: CommonKeys.title("lego-storage", "a storage component (sComponent)"),
        keys: CommonKeys.member + [tree, path, state, isReadOnly, hide, CommonKeys.linkModelOfPeer],
        tableComments: CommonKeys.linkTable)
}
