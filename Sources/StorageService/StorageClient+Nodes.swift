import CLinux
import Glibc
import Kernel
import Synchronization

/// A node that is open for one request. `descriptor` is negative, an error number, when it could not be opened.
struct NodeUse {
    var node: UInt64
    var descriptor: Int32
    var type: UInt32

    static func failed(_ number: Int32) -> NodeUse { NodeUse(node: 0, descriptor: -number, type: 0) }
    var isDirectory: Bool { type == UInt32(S_IFDIR) }
}

extension StorageClient.Node {
    mutating func setBirth(_ status: lego_file_status) {
        birth = type == UInt32(S_IFREG) ? status.birth_ns : 0
    }

    /// Whether a file that was found by the node's name is the node.
    func isSame(_ status: lego_file_status) -> Bool {
        key == NodeKey(status) && (birth == 0 || birth == status.birth_ns)
    }
}

extension StorageClient {
    /// Opens a node by handle for one request; `endUse` must follow where it succeeded. ESTALE for a handle that is not
    /// in use, and for a node that is no longer where it was. Cost: a lock, and for a node that is not at hand two
    /// system calls.
    func use(_ handle: UInt64) -> NodeUse { use(handle, depth: 0) }

    private func use(_ handle: UInt64, depth: Int) -> NodeUse {
        withUnsafeTemporaryAllocation(of: CChar.self, capacity: Int(NAME_MAX) + 1) { name in
            var known = Node(key: NodeKey(lego_file_status()), name: nil, type: 0)
            let atHand = withState { state -> NodeUse? in
                guard !state.isClosed, let node = state.nodes.pointer(handle) else { return .failed(ESTALE) }
                if node.pointee.descriptor >= 0 {
                    node.pointee.users += 1
                    state.touch(handle)
                    return NodeUse(node: handle, descriptor: node.pointee.descriptor, type: node.pointee.type)
                }
                guard let last = node.pointee.name else { return .failed(ESTALE) }
                strcpy(name.baseAddress!, last)
                known = node.pointee
                return nil
            }
            if let atHand { return atHand }
            return reopen(handle, known, name.baseAddress!, depth)
        }
    }

    /// As deep as the node lies in the tree, at most; a parent's descriptor is most often at hand. The depth is bounded
    /// because a program can make a tree as deep as it likes, and each level takes stack.
    private func reopen(
        _ handle: UInt64, _ known: Node, _ name: UnsafePointer<CChar>, _ depth: Int
    ) -> NodeUse {
        if depth == 1024 { return .failed(ENAMETOOLONG) }
        let directory = use(known.parent, depth: depth + 1)
        if directory.descriptor < 0 { return directory }
        let opened = lego_file_locate(directory.descriptor, name)
        endUse(directory)
        if opened < 0 { return .failed(opened == -ENOENT || opened == -ENOTDIR ? ESTALE : -opened) }
        var status = lego_file_status()
        if lego_file_status(opened, "", &status) < 0 || !known.isSame(status) {
            close(opened)
            return .failed(ESTALE)
        }
        var surplus: Int32 = -1
        let use = withState { state -> NodeUse in
            guard !state.isClosed, let node = state.nodes.pointer(handle) else {
                surplus = opened
                return .failed(ESTALE)
            }
            if node.pointee.descriptor < 0 {
                surplus = state.open(handle, opened, openNodes_max)
            } else {
                surplus = opened
            }
            node.pointee.users += 1
            return NodeUse(node: handle, descriptor: node.pointee.descriptor, type: node.pointee.type)
        }
        if surplus >= 0 { close(surplus) }
        return use
    }

    func endUse(_ use: NodeUse) {
        let surplus = withState { state -> Int32 in
            guard let node = state.nodes.pointer(use.node) else { return -1 }
            node.pointee.users -= 1
            if state.isClosed {
                if node.pointee.users > 0 { return -1 }
                defer { node.pointee.descriptor = -1 }
                return node.pointee.descriptor
            }
            return state.freeIfUnused(use.node)
        }
        if surplus >= 0 { close(surplus) }
    }

    /// Counts a reference of the client to what `name` in `parent` leads to; answers its handle, or nil when the client
    /// knows as many nodes as it may (or `parent` is gone).
    func remember(parent: UInt64, name: UnsafePointer<CChar>, _ status: lego_file_status) -> UInt64? {
        let key = NodeKey(status)
        let type = status.mode & UInt32(S_IFMT)
        return withState { state -> UInt64? in
            guard !state.isClosed, state.nodes.pointer(parent) != nil else { return nil }
            if let handle = state.byKey[key], let node = state.nodes.pointer(handle), node.pointee.type == type {
                node.pointee.references += 1
                node.pointee.setBirth(status)
                if handle != root { state.rename(handle, parent, name) }
                return handle
            }
            var node = Node(key: key, name: nil, type: type, references: 1)
            node.setBirth(status)
            guard let handle = state.nodes.insert(node) else { return nil }
            state.byKey[key] = handle
            state.rename(handle, parent, name)
            return handle
        }
    }

    /// Notes what a node that is in use is known by: an overlay makes its inode anew when it is changed first.
    func refresh(_ use: NodeUse, _ status: lego_file_status) {
        withState { state in
            guard let node = state.nodes.pointer(use.node), node.pointee.key == NodeKey(status) else { return }
            node.pointee.setBirth(status)
        }
    }

    /// Takes references back; unknown handles and surplus references are ignored.
    func forget(_ handle: UInt64, references: UInt64) {
        let surplus = withState { state -> Int32 in
            guard !state.isClosed, handle != root, let node = state.nodes.pointer(handle) else { return -1 }
            node.pointee.references -= min(references, node.pointee.references)
            return state.freeIfUnused(handle)
        }
        if surplus >= 0 { close(surplus) }
    }

    /// Closes all nodes that are not in use and can be opened again by name.
    func closeIdle() {
        let surplus = withState { state -> [Int32] in
            state.isClosed ? [] : state.closeIdle()
        }
        for descriptor in surplus { close(descriptor) }
    }

    /// The client's node with that identity, open for one request, or nil when it has none or it cannot be opened.
    func useKnown(_ status: lego_file_status) -> NodeUse? {
        let key = NodeKey(status)
        guard let handle = withState({ $0.byKey[key] }) else { return nil }
        let use = use(handle)
        return use.descriptor >= 0 ? use : nil
    }

    /// A name was removed. When the node was known by it, it lives on without one, open, until it is forgotten.
    func removed(_ use: NodeUse, parent: UInt64, name: UnsafePointer<CChar>) {
        withState { state in
            guard let node = state.nodes.pointer(use.node), let known = node.pointee.name,
                node.pointee.parent == parent, strcmp(known, name) == 0
            else { return }
            state.unname(use.node)
        }
    }

    /// A node has another name and perhaps another parent.
    func moved(_ use: NodeUse, parent: UInt64, name: UnsafePointer<CChar>) {
        withState { state in
            if use.node != root && !state.isClosed { state.rename(use.node, parent, name) }
        }
    }
}

// What follows runs with the client's lock held.
extension StorageClient.State {
    mutating func rename(_ handle: UInt64, _ parent: UInt64, _ name: UnsafePointer<CChar>) {
        guard let node = nodes.pointer(handle), let directory = nodes.pointer(parent) else { return }
        if node.pointee.parent == parent, let known = node.pointee.name, strcmp(known, name) == 0 { return }
        // When others moved directories about, what is known of the parents may be so old that they would form a ring.
        if node.pointee.children > 0 {
            var walk = parent
            while walk != 0, let ancestor = nodes.pointer(walk) {
                let next = ancestor.pointee.parent
                if walk == handle { return }
                if next == handle {
                    unname(walk)
                    break
                }
                walk = next
            }
        }
        directory.pointee.children += 1
        unname(handle)
        node.pointee.parent = parent
        node.pointee.name = strdup(name)
    }

    mutating func unname(_ handle: UInt64) {
        let parent = takeName(handle)
        if parent == 0 { return }
        let surplus = freeIfUnused(parent)
        if surplus >= 0 { close(surplus) }
    }

    /// Takes a node's name away; answers the parent, which has a child less, or 0.
    private func takeName(_ handle: UInt64) -> UInt64 {
        guard let node = nodes.pointer(handle), let name = node.pointee.name else { return 0 }
        free(name)
        node.pointee.name = nil
        let parent = node.pointee.parent
        node.pointee.parent = 0
        nodes.pointer(parent)?.pointee.children -= 1
        return parent
    }

    /// Frees a node that nobody needs, and then its ancestors; answers a descriptor to close, or -1.
    mutating func freeIfUnused(_ handle: UInt64) -> Int32 {
        var surplus: Int32 = -1
        var current = handle
        while current != 0, let node = nodes.pointer(current), node.pointee.references == 0, node.pointee.users == 0,
            node.pointee.openFiles == 0, node.pointee.children == 0
        {
            if node.pointee.descriptor >= 0 {
                unlink(current)
                if surplus >= 0 { close(surplus) }
                surplus = node.pointee.descriptor
            }
            if byKey[node.pointee.key] == current { byKey[node.pointee.key] = nil }
            let parent = takeName(current)
            nodes.remove(current)
            current = parent
        }
        return surplus
    }

    /// Gives a node its descriptor; answers that of another node, which has to make room, or -1.
    mutating func open(_ handle: UInt64, _ descriptor: Int32, _ limit: Int) -> Int32 {
        guard let node = nodes.pointer(handle) else { return descriptor }
        node.pointee.descriptor = descriptor
        link(handle)
        if openNodes <= limit { return -1 }
        // Those that must stay open are passed over, a few at a time, so that the cost is bounded.
        var candidate = oldest
        for _ in 0..<16 {
            guard candidate != 0, candidate != handle, let old = nodes.pointer(candidate) else { return -1 }
            if old.pointee.users == 0 && old.pointee.openFiles == 0 && old.pointee.name != nil {
                let closing = old.pointee.descriptor
                unlink(candidate)
                old.pointee.descriptor = -1
                return closing
            }
            let next = old.pointee.newer
            touch(candidate)
            candidate = next
        }
        return -1
    }

    /// Answers the descriptors to close.
    mutating func closeIdle() -> [Int32] {
        var surplus: [Int32] = []
        var candidate = oldest
        while candidate != 0, let node = nodes.pointer(candidate) {
            let next = node.pointee.newer
            if node.pointee.users == 0 && node.pointee.openFiles == 0 && node.pointee.name != nil {
                surplus.append(node.pointee.descriptor)
                unlink(candidate)
                node.pointee.descriptor = -1
            }
            candidate = next
        }
        return surplus
    }

    /// Makes an open node the most recently used.
    mutating func touch(_ handle: UInt64) {
        if newest == handle { return }
        guard let node = nodes.pointer(handle), node.pointee.older != 0 || node.pointee.newer != 0 || oldest == handle
        else { return }  // The root is in no list.
        unlink(handle)
        link(handle)
    }

    private mutating func link(_ handle: UInt64) {
        guard let node = nodes.pointer(handle) else { return }
        node.pointee.older = newest
        node.pointee.newer = 0
        if newest != 0 { nodes.pointer(newest)?.pointee.newer = handle } else { oldest = handle }
        newest = handle
        openNodes += 1
    }

    private mutating func unlink(_ handle: UInt64) {
        guard let node = nodes.pointer(handle) else { return }
        let (older, newer) = (node.pointee.older, node.pointee.newer)
        if older != 0 { nodes.pointer(older)?.pointee.newer = newer } else { oldest = newer }
        if newer != 0 { nodes.pointer(newer)?.pointee.older = older } else { newest = older }
        node.pointee.older = 0
        node.pointee.newer = 0
        openNodes -= 1
    }
}
