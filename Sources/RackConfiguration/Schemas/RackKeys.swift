/// The configuration of `legoctl rack up`: a whole rack on this machine.
public enum RackKeys {
    public static let processors = ConfigurationKey.integer(
        "rack.processors", default: 1, in: 1...16,
        comment: "How many processor components: processor0, processor1 and so on.")

    public static let memories = ConfigurationKey.integer(
        "rack.memories", default: 2, in: 1...16, comment: "How many memory components: memory0, memory1 and so on.")

    public static let storages = ConfigurationKey.integer(
        "rack.storages", default: 1, in: 1...16,
        comment:
            "How many storage components: storage0, storage1 and so on. Each has a tree of its own; programs see that of "
            + "storage0.")

    public static let state = ConfigurationKey<String>.path(
        "rack.state", default: "/var/lib/lego/default",
        comment: "The rack's directory: logs, the table of programs, files that programs wrote.")

    public static let manager = ConfigurationKey.address(
        "rack.manager", default: NetworkAddress(host: "127.0.0.1", port: 0),
        comment: "Where components connect to the manager. Port 0 takes any free port.")

    public static let api = ConfigurationKey.address(
        "rack.api", default: NetworkAddress(host: "127.0.0.1", port: 0),
        comment: "Where legoctl connects to the manager. Port 0 takes any free port.")

    public static let fabric = ConfigurationKey.word(
        "rack.fabric", default: "automatic", of: CommonKeys.paths,
        comment: "How the components reach each other: see component.fabric of any component.")

    public static let lease = ConfigurationKey.duration(
        "rack.lease", default: .milliseconds(1500), in: .milliseconds(200) ... .seconds(60),
        comment: "How long a component may be silent before it is lost: see manager.lease of the manager.")

    public static let logLevel = ConfigurationKey.word(
        "rack.log-level", default: "info", of: ["trace", "debug", "info", "notice", "warning", "error", "critical"],
        comment: "The least severe entries in the components' logs.")

    public static let memorySize = ConfigurationKey.size(
        "memory.size", default: 1 << 30, atLeast: 1 << 20, comment: "The pool of each memory component.")

    public static let excache = ConfigurationKey.size(
        "processor.excache", default: 1 << 30, atLeast: 4 << 20, comment: "The ExCache of each processor component.")

    public static let logSize = ConfigurationKey.size(
        "processor.log-size", default: 64 << 20, atLeast: 64 << 10,
        comment: "How much of a detached program's output is kept; beyond it the oldest is dropped.")

    public static let temporarySize = ConfigurationKey.size(
        "processor.tmp-size", default: 4 << 30, atLeast: 1 << 20,
        comment: "The size of a program's private /tmp, which lies in this host's memory.")

    public static let tree = ConfigurationKey.word(
        "storage.tree", default: "overlay", of: ["overlay", "directory"],
        comment:
            "What the storage component exports: \"overlay\" shows storage.path and keeps all changes in the rack's "
            + "directory; \"directory\" exports storage.path itself, and changes go there.")

    public static let path = ConfigurationKey<String>.path(
        "storage.path", default: "/", comment: "The directory that programs see as their root.")

    public static let componentSize = ConfigurationKey.size(
        "override.*.size", default: 2 << 30, atLeast: 1 << 20, comment: "A memory component's pool.")

    public static let componentExcache = ConfigurationKey.size(
        "override.*.excache", default: 2 << 30, atLeast: 4 << 20, comment: "A processor component's ExCache.")

    public static let componentLogLevel = ConfigurationKey.word(
        "override.*.log-level", default: "debug",
        of: ["trace", "debug", "info", "notice", "warning", "error", "critical"], comment: "A component's log level.")

    public static let schema = ConfigurationSchema(
        title: [
            "legoctl rack up --config FILE: a rack of components on this machine", "",
            "Every key with its default. A flag of the command line wins over this file.",
            "Sizes: 512MiB, 1GiB or bytes.",
        ],
        keys: [
            processors, memories, storages, state, manager, api, fabric, lease, logLevel, memorySize, excache, logSize,
            temporarySize, tree, path,
            componentSize, componentExcache, componentLogLevel,
        ],
        tableComments: [
            "override.*":
                "What holds for one component only, by its name (memory1, processor0, …). Commented out: there is "
                + "no default."
        ])
}
