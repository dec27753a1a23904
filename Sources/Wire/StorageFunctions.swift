/// The functions of a storage component, called by processors. Every request but `attach` names nodes and files by
/// handles that the component gave to this very peer; a handle that it did not give, or has taken back, answers ESTALE.
public enum StorageFunction {
    public static let attach = FunctionID(rawValue: 0x0501)
    /// Answered at once, whatever the disks do: both messages are `StorageNothing`.
    public static let ping = FunctionID(rawValue: 0x0524)
    /// EBUSY where the host has exchanged what somebody has open, or had a moment ago: what is gets seen when he has closed it.
    public static let lookUp = FunctionID(rawValue: 0x0502)
    /// The same by whoever does not wait any more: what somebody has open is found as it was.
    public static let lookUpOpen = FunctionID(rawValue: 0x0527)
    /// What many names lead to at present, without a reference counted: a `ProcessorStorageNames` is answered by a
    /// `StorageProcessorStates`.
    public static let review = FunctionID(rawValue: 0x0526)
    public static let forget = FunctionID(rawValue: 0x0503)
    public static let getAttributes = FunctionID(rawValue: 0x0504)
    public static let setAttributes = FunctionID(rawValue: 0x0505)
    public static let readLink = FunctionID(rawValue: 0x0506)
    public static let makeNode = FunctionID(rawValue: 0x0507)
    public static let makeLink = FunctionID(rawValue: 0x0508)
    public static let unlink = FunctionID(rawValue: 0x0509)
    public static let removeDirectory = FunctionID(rawValue: 0x050a)
    public static let rename = FunctionID(rawValue: 0x050b)
    public static let fileSystemStatus = FunctionID(rawValue: 0x050c)
    public static let open = FunctionID(rawValue: 0x0510)
    public static let create = FunctionID(rawValue: 0x0511)
    public static let read = FunctionID(rawValue: 0x0513)
    public static let write = FunctionID(rawValue: 0x0514)
    public static let synchronize = FunctionID(rawValue: 0x0515)
    public static let allocate = FunctionID(rawValue: 0x0516)
    public static let seek = FunctionID(rawValue: 0x0517)
    /// The storage component's own descriptor of an open file, for a processor on its host: a `ProcessorStorageFile` is
    /// answered by a `StorageProcessorCount`. EOPNOTSUPP to others. It stays open as long as the file.
    public static let lend = FunctionID(rawValue: 0x0525)
    public static let copy = FunctionID(rawValue: 0x0518)
    public static let readDirectory = FunctionID(rawValue: 0x0519)
    public static let getExtended = FunctionID(rawValue: 0x0520)
    public static let listExtended = FunctionID(rawValue: 0x0521)
    public static let setExtended = FunctionID(rawValue: 0x0522)
    public static let removeExtended = FunctionID(rawValue: 0x0523)
}

/// Sizes on which a storage component and its clients agree, in bytes or entries.
public enum StorageLimit {
    /// Grows with every incompatible change of the messages; `attach` refuses another one.
    public static let version: UInt32 = 3
    /// NAME_MAX.
    public static let name_max = 255
    /// PATH_MAX without its terminator: the target of a symbolic link.
    public static let target_max = 4095
    /// The largest read or write: what libfuse and the kernel agree on.
    public static let transferBytes_max = 1 << 20
    /// What stat(2) names as the size that files are best read and written in: a request costs the same whatever it
    /// carries. Programs that follow it (python, awk) still get such a buffer from malloc(3)'s heap; glibc's standard I/O
    /// goes up to 8 KiB only.
    public static let blockBytes: UInt32 = 64 << 10
    /// The largest answer of `readDirectory` and the longest value of an extended attribute.
    public static let answerBytes_max = 60 << 10
    /// A request: an extended attribute's value, its name, and the fixed fields.
    public static let requestBytes_max = answerBytes_max + 512
    public static let forgotten_max = 512
    /// Names of one `review`.
    public static let reviewed_max = 64
}
