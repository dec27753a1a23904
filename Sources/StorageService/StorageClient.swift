import CLinux
import Glibc
import Kernel
import Lite
import Synchronization

/// A processor that is attached: the nodes and the open files that it holds handles of. They mean nothing to another
/// client, and all end with the connection.
///
/// A node is known by its parent and name, and by its inode number. It is opened (O_PATH) when it is used and stays
/// open while it is among the most recently used; later it is opened again by name, and answers ESTALE when another
/// inode is found there. It must stay open while it has open files, and when its name is gone.
///
/// Lock: one per client, innermost of all; never held over a system call that may wait.
final class StorageClient: Sendable {
    struct Node: BitwiseCopyable {
        var key: NodeKey
        /// Of a regular file, when its inode was made: an inode number that was given to another file is not the same
        /// node. (0 for others: an overlay makes a directory anew when something in it changes first.)
        var birth: UInt64 = 0
        /// 0 for the root and for a node without a name.
        var parent: UInt64 = 0
        /// Allocated with strdup; nil for the root and for a node without a name.
        var name: UnsafeMutablePointer<CChar>?
        /// S_IFMT of its mode.
        var type: UInt32
        /// O_PATH; -1 when closed.
        var descriptor: Int32 = -1
        /// References that the client has to give back.
        var references: UInt64 = 0
        /// Requests that use the descriptor now.
        var users: UInt32 = 0
        var openFiles: UInt32 = 0
        /// Nodes of which this is the parent.
        var children: UInt32 = 0
        /// Neighbours in the list of open nodes; 0 at the ends.
        var older: UInt64 = 0
        var newer: UInt64 = 0
    }

    struct OpenFile: BitwiseCopyable {
        var descriptor: Int32
        var node: UInt64
        var isDirectory: Bool
        /// The file system of a directory, for the inode numbers that it lists.
        var device: UInt64
        var users: UInt32 = 0
        /// Released while in use: the last user closes it.
        var isClosing = false
    }

    struct State: ~Copyable {
        var nodes: SlotTable<Node>
        var files: SlotTable<OpenFile>
        var byKey: [NodeKey: UInt64] = [:]
        var oldest: UInt64 = 0
        var newest: UInt64 = 0
        /// Nodes in that list.
        var openNodes = 0
        /// The connection is gone: nothing new is taken in.
        var isClosed = false
    }

    let peer: LitePeer
    let root: UInt64
    let openNodes_max: Int
    private let lock = Mutex<Void>(())
    /// Guarded by `lock`.
    private nonisolated(unsafe) let state: UnsafeMutablePointer<State>

    init(peer: LitePeer, tree: ExportTree, configuration: StorageConfiguration) {
        self.peer = peer
        openNodes_max = configuration.openNodes_max
        let key = NodeKey(tree.rootStatus)
        let blank = Node(key: key, name: nil, type: 0)
        var nodes = SlotTable(capacity_max: configuration.nodes_max, blank: blank)
        // The root is never given back.
        var node = Node(key: key, name: nil, type: UInt32(S_IFDIR), descriptor: dup(tree.root), references: 1)
        node.openFiles = 1
        root = nodes.insert(node) ?? 0
        let files = SlotTable(
            capacity_max: configuration.openFiles_max,
            blank: OpenFile(descriptor: -1, node: 0, isDirectory: false, device: 0))
        var state = State(nodes: nodes, files: files)
        state.byKey[key] = root
        self.state = .allocate(capacity: 1)
        self.state.initialize(to: state)
    }

    deinit {
        end()
        state.deinitialize(count: 1)
        state.deallocate()
    }

    /// Runs `body` with the lock held.
    func withState<Result: Sendable>(_ body: (inout State) -> Result) -> Result {
        lock.withLock { _ in body(&state.pointee) }
    }

    /// Closes whatever is not in use this moment; the rest is closed by its last user. The client is never used again.
    func end() {
        withState { state in
            if state.isClosed { return }
            state.isClosed = true
            state.files.forEach { _, file in
                file.pointee.isClosing = true
                if file.pointee.users == 0 {
                    close(file.pointee.descriptor)
                    file.pointee.descriptor = -1
                }
            }
            state.nodes.forEach { _, node in
                free(node.pointee.name)
                node.pointee.name = nil
                if node.pointee.users == 0 && node.pointee.descriptor >= 0 {
                    close(node.pointee.descriptor)
                    node.pointee.descriptor = -1
                }
            }
            state.byKey = [:]
        }
    }
}
