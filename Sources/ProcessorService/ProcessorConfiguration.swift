import Fabric
import Glibc
import Kernel

/// The sizes and places of a processor component.
public struct ProcessorConfiguration: Sendable {
    /// The ExCache that all programs share, in bytes.
    public var excacheBytes: UInt64
    /// Holds the logs of detached programs.
    public var stateDirectory: String
    /// Where legoctl attaches to programs; port 0 takes any free one.
    public var attachListen: FabricAddress
    /// The guardian's executable.
    public var sandboxPath: String
    /// Size of a program's private /tmp in bytes; 0: half of the host's memory.
    public var temporaryBytes: UInt64 = 0
    /// The newest output of a detached program that is kept, in bytes.
    public var logBytes_max: UInt64 = 64 << 20
    /// How long an attached program waits for its client before it is cancelled.
    public var attachLimit = Duration.seconds(10)

    /// lego-sandbox is looked for beside this executable.
    public init(excacheBytes: UInt64, stateDirectory: String, attachListen: FabricAddress) {
        self.excacheBytes = excacheBytes
        self.stateDirectory = stateDirectory
        self.attachListen = attachListen
        sandboxPath = Self.directoryOfExecutable() + "/lego-sandbox"
    }

    private static func directoryOfExecutable() -> String {
        withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 1) { buffer in
            let count = readlink("/proc/self/exe", buffer.baseAddress!, buffer.count)
            let path = String(decoding: buffer.prefix(max(0, count)), as: UTF8.self)
            return String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
        }
    }

    var logDirectory: String { stateDirectory + "/logs" }
    /// Where `ProcTree` is mounted.
    var procDirectory: String { stateDirectory + "/proc" }
}

/// The file tree of a storage component, mounted on this host.
public struct StorageTree: Sendable {
    /// Absolute, in the daemon's mount namespace.
    public var path: String
    /// The component's name.
    public var name: String

    public init(path: String, name: String) {
        self.path = path
        self.name = name
    }
}

/// Why a processor component cannot start. Each case's comment is the operator's message.
public enum ProcessorError: Error, CustomStringConvertible {
    /// CALL failed: REASON
    case system(KernelError)
    /// cannot listen on HOST:PORT: REASON
    case fabric(FabricError)
    /// the state directory PATH cannot be made: REASON
    case stateDirectory(String, KernelError)
    /// PATH is missing or cannot be executed; it belongs beside lego-processor
    case noSandbox(String)

    public var description: String {
        switch self {
        case .system(let error): "\(error)"
        case .fabric(let error): "\(error)"
        case .stateDirectory(let path, let error): "the state directory \(path) cannot be made: \(error)"
        case .noSandbox(let path): "\(path) is missing or cannot be executed; it belongs beside lego-processor"
        }
    }
}
