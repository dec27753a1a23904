/// The function numbers of the rack's daemons. The high byte is the callee.
public enum RackFunction {
    // Manager, called by components.
    public static let registerComponent = FunctionID(rawValue: 0x0101)
    public static let heartbeat = FunctionID(rawValue: 0x0102)
    public static let membership = FunctionID(rawValue: 0x0103)
    public static let placeRegion = FunctionID(rawValue: 0x0104)
    public static let programReport = FunctionID(rawValue: 0x0105)
    // Any component, called by the manager.
    public static let terminate = FunctionID(rawValue: 0x0201)
    public static let fabric = FunctionID(rawValue: 0x0202)
    public static let linkModel = FunctionID(rawValue: 0x0203)
    public static let measureLink = FunctionID(rawValue: 0x0204)
    // Processor, called by the manager.
    public static let startProgram = FunctionID(rawValue: 0x0301)
    public static let signalProgram = FunctionID(rawValue: 0x0302)
    public static let programStatistics = FunctionID(rawValue: 0x0303)
    public static let joinProgram = FunctionID(rawValue: 0x0304)
    // Memory: the first two called by processors, the third by processors and by the manager.
    public static let reserveChunks = FunctionID(rawValue: 0x0401)
    public static let releaseChunks = FunctionID(rawValue: 0x0402)
    public static let releaseOwner = FunctionID(rawValue: 0x0403)
    // Storage: 0x05xx, listed beside its messages.
}

/// Limits of texts on the wire, in bytes or entries. One place, so that every decoder refuses the same.
public enum WireLimit {
    public static let name_max = 64
    public static let address_max = 256
    public static let reason_max = 1024
    public static let path_max = 4096
    /// More than fit into a message, each with its length.
    public static let arguments_max = 256 << 10
    /// One argument or variable; Linux's MAX_ARG_STRLEN without the zero byte.
    public static let argumentBytes_max = (128 << 10) - 1
    public static let groups_max = 1024
    /// 64 CPUs each.
    public static let processorWords_max = 16
    public static let components_max = 1024
}
