/// The configuration of `lego-memory`.
public enum MemoryKeys {
    public static let size = ConfigurationKey.size(
        "memory.size", default: 1 << 30, atLeast: 1 << 20,
        comment: "The pool that this component offers to the rack, rounded down to chunks of 64 KiB.")

    public static let prefault = ConfigurationKey.boolean(
        "memory.prefault", default: false,
        comment: "Whether the whole pool is taken from the host at start rather than as it is used.")

    public static let hugePages = ConfigurationKey.word(
        "pool.huge-pages", default: "auto", of: ["auto", "never", "always"],
        comment:
            "Whether the pool lies in huge pages of 2 MiB. auto: those that the host keeps (vm.nr_hugepages) where "
            + "enough are free, else what the kernel joins by itself. always: those that the host keeps, or the component "
            + "does not start. They are taken from the host at start.")

    public static let liteSocket = ConfigurationKey<String>.path(
        "lite.socket", default: "", mayBeEmpty: true,
        comment:
            "Where programs of this host join LITE (liblite.so), served by this component: as lego-lite would, and together "
            + "with all memory components of the rack that do so, whom the manager names. Empty: LITE is not served.")

    public static let liteArena = ConfigurationKey.size(
        "lite.arena", default: 256 << 20, atLeast: 1 << 20,
        comment: "The memory that is offered to programs by LITE, beside memory.size, if it is served.")

    public static let schema = ConfigurationSchema(
        title: CommonKeys.title("lego-memory", "a memory component (mComponent)"),
        keys: CommonKeys.member + [size, prefault, hugePages, liteSocket, liteArena, CommonKeys.linkModelOfPeer],
        tableComments: CommonKeys.linkTable)
}
