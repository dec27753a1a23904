import CLinux
import Fabric
import Glibc
import Kernel
import Lite
import Logging
import Synchronization
import Wire

/// A storage component: serves a tree of files to the processors of the rack (LegoOS §4.5, widened to the whole of what
/// Linux programs do with files).
///
/// Order: `init` offers the functions at the node, `start` opens the tree, then the owner starts the node. Handlers run
/// on the node's workers. Lock order: the list of clients, then one client's (`StorageClient`).
public final class StorageService: Sendable {
    let node: RackNode
    let configuration: StorageConfiguration
    let logger: Logger
    private let staging: StagingBuffers
    private let started = Mutex<ExportTree?>(nil)
    private let clients = Mutex<[StorageClient]>([])
    let renewals = Mutex(OverlayRenewals())

    /// Gives the calling process mounts of its own. Early in main, before any thread exists: an overlay's mounts then
    /// end with the process, however it ends.
    public static func enterPrivateMounts() throws(KernelError) {
        _ = try checked("unshare", lego_mount_unshare())
    }

    /// Uses `configuration.poolBytes` of the node's pool from its start. Before the node's start.
    public init(node: RackNode, configuration: StorageConfiguration, logger: Logger) throws(StorageError) {
        if node.pool.count < configuration.poolBytes {
            throw .poolTooSmall(have: node.pool.count, need: configuration.poolBytes)
        }
        self.node = node
        self.configuration = configuration
        self.logger = logger
        staging = StagingBuffers(
            UnsafeMutableRawBufferPointer(rebasing: node.pool[..<configuration.poolBytes]),
            count: configuration.stagingBuffers)
        registerFunctions()
        node.onPeerLost { [weak self] peer in self?.peerLost(peer) }
    }

    /// Opens the tree; mounts it first when it is an overlay.
    public func start() throws(StorageError) {
        if geteuid() != 0 { throw .notRoot }
        raiseDescriptorLimit()
        // Modes arrive as the program's kernel made them.
        umask(0)
        let tree = try ExportTree(configuration, logger: logger)
        started.withLock { $0 = tree }
    }

    /// Ends all service and the tree's mounts. Idempotent; the node may be closed before or after.
    public func stop() {
        let tree = started.withLock { tree in
            defer { tree = nil }
            return tree
        }
        let clients = clients.withLock { clients in
            defer { clients = [] }
            return clients
        }
        for client in clients { client.end() }
        tree?.unmount()
    }

    /// Size of the file system that takes the tree's changes, in bytes; 0 when not started.
    public var capacityBytes: UInt64 { tree?.space().capacity ?? 0 }
    /// What is taken of it.
    public var usedBytes: UInt64 { tree?.space().used ?? 0 }

    var tree: ExportTree? { started.withLock { $0 } }
    var allClients: [StorageClient] { clients.withLock { $0 } }

    /// The client of a peer that has attached, or nil.
    func client(_ peer: LitePeer) -> StorageClient? {
        clients.withLock { clients in
            for client in clients where client.peer === peer { return client }
            return nil
        }
    }

    /// Makes a peer a client; answers the one that it is already, or nil when the peer is gone or the service stopped.
    func attach(_ peer: LitePeer) -> StorageClient? {
        guard let tree else { return nil }
        let client = clients.withLock { clients in
            for client in clients where client.peer === peer { return client }
            let client = StorageClient(peer: peer, tree: tree, configuration: configuration)
            clients.append(client)
            return client
        }
        // The loss may have been told before the client was in the list.
        if !peer.isConnected {
            peerLost(peer)
            return nil
        }
        return client
    }

    private func peerLost(_ peer: LitePeer) {
        let client = clients.withLock { clients -> StorageClient? in
            guard let index = clients.firstIndex(where: { $0.peer === peer }) else { return nil }
            return clients.remove(at: index)
        }
        client?.end()
    }

    func takeStaging() -> UnsafeMutableRawBufferPointer? { staging.take() }
    func giveBack(_ buffer: UnsafeMutableRawBufferPointer) { staging.giveBack(buffer) }

    /// Room for the open files and nodes of a handful of clients; the kernel's own limit is the ceiling.
    private func raiseDescriptorLimit() {
        let wanted = rlim_t(configuration.openFiles_max + configuration.openNodes_max) * 4 + 1024
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        if limit.rlim_cur >= wanted { return }
        let hard = max(limit.rlim_max, wanted)
        var raised = rlimit(rlim_cur: wanted, rlim_max: hard)
        if setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &raised) < 0 {
            raised = rlimit(rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max)
            setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &raised)
        }
    }
}
