import Kernel

/// What a storage component serves and how much it keeps at hand.
public struct StorageConfiguration: Sendable {
    public enum Export: Sendable, Equatable {
        /// An overlayfs over `lower` whose changes go to a private layer in the state directory and survive restarts.
        /// The state directory is hidden from the tree.
        case overlay(lower: String, stateDirectory: String)
        /// The directory itself; changes go where everybody sees them.
        case directory(String)
    }
    public var export: Export
    /// Refuses every change with EROFS.
    public var isReadOnly = false
    /// Further directories of the tree that programs must not see, as absolute paths of the host.
    public var hidden: [String] = []
    /// The largest number of nodes that a client may know at a time. Some 100 bytes each.
    public var nodes_max = 16 << 20
    /// Nodes per client that are kept open, beside those that must be. A further one costs an open when it is used.
    public var openNodes_max = 4096
    /// Files and directories that a client may have open at a time.
    public var openFiles_max = 64 << 10
    /// One-sided transfers under way at a time; each takes 1 MiB of the node's pool. As many as the node has workers.
    public var stagingBuffers = 4
    /// How long a one-sided transfer may take.
    public var transferTimeout: Duration = .seconds(5)

    public init(export: Export) { self.export = export }

    /// What the service needs of the node's pool, in bytes.
    public var poolBytes: Int { stagingBuffers * StagingBuffers.bytes }
}

/// Why a storage component cannot start. The text is one line for the operator.
public enum StorageError: Error, Sendable, CustomStringConvertible {
    /// the storage component must run as root: it serves files for every user
    case notRoot
    /// PATH cannot be exported: REASON
    case export(path: String, KernelError)
    /// PATH cannot hold the tree's private layer: REASON
    case state(path: String, KernelError)
    /// this kernel has no overlayfs: …
    case noOverlay
    /// PATH is used by another storage component that is still running: …
    case stateInUse(path: String)
    /// PATH is on a file system that cannot hold an overlay's changes: …
    case stateUnsuitable(path: String)
    /// the node's pool is too small: …
    case poolTooSmall(have: Int, need: Int)

    public var description: String {
        switch self {
        case .notRoot: "the storage component must run as root: it serves files for every user"
        case .export(let path, let error): "\(path) cannot be exported: \(error)"
        case .state(let path, let error): "\(path) cannot hold the tree's private layer: \(error)"
        case .noOverlay:
            "this kernel has no overlayfs: load it with 'modprobe overlay', or export a plain directory"
        case .stateInUse(let path):
            "\(path) is used by another storage component that is still running: stop it, or choose another state "
                + "directory"
        case .stateUnsuitable(let path):
            "\(path) is on a file system that cannot hold an overlay's changes (it needs trusted extended attributes, "
                + "as ext4, xfs, btrfs and tmpfs have them): choose a state directory on one of those"
        case .poolTooSmall(let have, let need):
            "the storage component's pool has \(have) bytes and needs \(need): one staging buffer of 1 MiB per worker"
        }
    }
}
