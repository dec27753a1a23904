/// The configuration of `lego-memory`.
public enum MemoryKeys {
    public static let size = ConfigurationKey.size(
        "memory.size", default: 1 << 30, atLeast: 1 << 20,
        comment: "The pool that this component offers to the rack, rounded down to chunks of 64 KiB.")

    public static let prefault = ConfigurationKey.boolean(
        "memory.prefault", default: false,
        comment: "Whether the whole pool is taken from the host at start rather than as it is used.")

    public static let schema = ConfigurationSchema(
        title: CommonKeys.title("lego-memory", "a memory component (mComponent)"),
        keys: CommonKeys.member + [size, prefault])
}
