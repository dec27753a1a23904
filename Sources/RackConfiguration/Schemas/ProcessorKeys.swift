/// The configuration of `lego-processor`.
public enum ProcessorKeys {
    public static let excache = ConfigurationKey.size(
        "processor.excache", default: 1 << 30, atLeast: 4 << 20,
        comment: "The ExCache: the memory of this host that all programs of the component share. The rest of a "
            + "program's memory is in memory components.")

    public static let attach = ConfigurationKey.address(
        "processor.attach", default: NetworkAddress(host: "127.0.0.1", port: 0),
        comment: "Where legoctl connects to the standard streams of programs. Port 0 takes any free port.")

    public static let state = ConfigurationKey<String>.path(
        "processor.state", default: "/var/lib/lego/processor",
        comment: "Where the output of detached programs is kept.")

    public static let logSize = ConfigurationKey.size(
        "processor.log-size", default: 64 << 20, atLeast: 64 << 10,
        comment: "How much of a detached program's output is kept; beyond it the oldest is dropped.")

    public static let temporarySize = ConfigurationKey.size(
        "processor.tmp-size", default: 4 << 30, atLeast: 1 << 20,
        comment: "The size of a program's private /tmp, which lies in this host's memory.")

    public static let schema = ConfigurationSchema(
        title: CommonKeys.title("lego-processor", "a processor component (pComponent)"),
        keys: CommonKeys.member + [excache, attach, state, logSize, temporarySize, CommonKeys.linkModelOfPeer],
        tableComments: CommonKeys.linkTable)
}
