import CLinux
import Glibc
import Lite
import Wire

// Handlers: names. On workers. Every name is one component that is looked up in a directory that is open: nothing
// outside the tree can be reached.
extension StorageService {
    func lookUp(_ call: StorageCall, _ exchanged: Exchanged) -> CallResult {
        guard let message = ProcessorStorageName(decoding: call.request) else { return call.malformed }
        renewOwed(call)
        return call.withName(message.name) { name in
            call.withDirectory(message.parent) { answerEntry(call, $0, name, exchanged) }
        }
    }

    /// Looks at many names, and counts none. What is out of date is told, and brought up to date by a look-up.
    func review(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageNames(decoding: call.request) else { return call.malformed }
        return call.answer(StorageProcessorStates(states: message.items.map { state(call, $0) }))
    }

    private func state(
        _ call: StorageCall, _ item: ProcessorStorageNames.Item
    ) -> StorageProcessorStates.State {
        var status = lego_file_status()
        let result = item.name.withUnsafeBytes { bytes -> CallResult in
            if bytes.isEmpty {
                return call.withNode(item.parent) { call.answer(lego_file_status($0.descriptor, "", &status)) }
            }
            return call.withName(bytes) { name in
                call.withDirectory(item.parent) { parent in
                    let result = peek(call, parent.descriptor, name, &status)
                    return result == 0 && call.tree.isHidden(status) ? call.fail(ENOENT) : call.answer(result)
                }
            }
        }
        if result.status.isOK { return StorageProcessorStates.State(error: 0, attributes: call.attributes(status)) }
        return StorageProcessorStates.State(error: UInt32(result.status.errorNumber ?? EIO))
    }

    /// The entry of a name, with a reference counted; or why there is none.
    private func entry(
        _ call: StorageCall, _ parent: NodeUse, _ name: UnsafePointer<CChar>, _ exchanged: Exchanged
    ) -> (error: Int32, entry: StorageEntry?) {
        var status = lego_file_status()
        let result = find(call, parent.descriptor, name, &status, exchanged)
        if result < 0 { return (result, nil) }
        if call.tree.isHidden(status) { return (-ENOENT, nil) }
        guard let node = call.client.remember(parent: parent.node, name: name, status) else { return (-ENFILE, nil) }
        return (0, StorageEntry(node: node, attributes: call.attributes(status)))
    }

    private func answerEntry(
        _ call: StorageCall, _ parent: NodeUse, _ name: UnsafePointer<CChar>, _ exchanged: Exchanged = .open
    ) -> CallResult {
        let (error, entry) = entry(call, parent, name, exchanged)
        guard let entry else { return call.fail(error) }
        return call.answer(entry)
    }

    func makeNode(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageMake(decoding: call.request) else { return call.malformed }
        return call.withName(message.name) { name in
            call.withDirectory(message.parent) { parent in
                let identity = lego_thread_create_as(message.user, message.group)
                if identity < 0 { return call.fail(identity) }
                let result = make(message, in: parent.descriptor, name)
                return result == 0 ? answerEntry(call, parent, name) : call.fail(result)
            }
        }
    }

    /// 0 or an error number.
    private func make(
        _ message: ProcessorStorageMake, in parent: Int32, _ name: UnsafePointer<CChar>
    ) -> Int32 {
        let permissions = message.mode & 0o7777
        let result: Int32
        switch message.mode & UInt32(S_IFMT) {
        case UInt32(S_IFDIR):
            result = mkdirat(parent, name, permissions)
        case UInt32(S_IFLNK):
            if message.target.isEmpty { return EINVAL }
            result = StorageCall.withTerminated(message.target) { symlinkat($0, parent, name) }
        case UInt32(S_IFREG), UInt32(S_IFIFO), UInt32(S_IFSOCK):
            result = mknodat(parent, name, message.mode, 0)
        case UInt32(S_IFCHR), UInt32(S_IFBLK):
            if message.user != 0 { return EPERM }
            result = mknodat(parent, name, message.mode, dev_t(message.special))
        default:
            return EINVAL
        }
        return result < 0 ? errno : 0
    }

    func makeLink(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageLink(decoding: call.request) else { return call.malformed }
        return call.withName(message.name) { name in
            call.withDirectory(message.parent) { parent in
                call.withNode(message.node) { node in
                    let result = lego_file_link(node.descriptor, parent.descriptor, name)
                    return result < 0 ? call.fail(result) : answerEntry(call, parent, name)
                }
            }
        }
    }

    func unlink(_ call: StorageCall, directory: Bool) -> CallResult {
        guard let message = ProcessorStorageName(decoding: call.request) else { return call.malformed }
        return call.withName(message.name) { name in
            call.withDirectory(message.parent) { parent in
                var status = lego_file_status()
                let found = lego_file_status(parent.descriptor, name, &status)
                if found < 0 { return call.fail(found) }
                if call.tree.isHidden(status) { return call.fail(EBUSY) }
                // Opened while it has its name: the client may go on using it.
                let victim = call.client.useKnown(status)
                defer { if let victim { call.client.endUse(victim) } }
                if unlinkat(parent.descriptor, name, directory ? Int32(AT_REMOVEDIR) : 0) < 0 {
                    return call.fail(errno)
                }
                if let victim { call.client.removed(victim, parent: parent.node, name: name) }
                return call.answer(
                    StorageProcessorCount(count: call.tree.inode(status.inode, device: status.device)))
            }
        }
    }

    func rename(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageRename(decoding: call.request) else { return call.malformed }
        return call.withName(message.name) { name in
            call.withName(message.newName) { newName in
                call.withDirectory(message.parent) { parent in
                    call.withDirectory(message.newParent) { newParent in
                        rename(call, message.flags, parent, name, newParent, newName)
                    }
                }
            }
        }
    }

    private func rename(
        _ call: StorageCall, _ flags: UInt32, _ parent: NodeUse, _ name: UnsafePointer<CChar>, _ newParent: NodeUse,
        _ newName: UnsafePointer<CChar>
    ) -> CallResult {
        let exchange: UInt32 = 2  // RENAME_EXCHANGE
        if flags & ~(exchange | 1) != 0 { return call.fail(EINVAL) }
        let client = call.client
        var status = lego_file_status()
        let found = lego_file_status(parent.descriptor, name, &status)
        if found < 0 { return call.fail(found) }
        if call.tree.isHidden(status) { return call.fail(EBUSY) }
        let moved = client.useKnown(status)
        defer { if let moved { client.endUse(moved) } }
        var renamed = StorageProcessorRenamed(
            moved: call.tree.inode(status.inode, device: status.device), replaced: 0)
        var replaced: NodeUse?
        defer { if let replaced { client.endUse(replaced) } }
        if lego_file_status(newParent.descriptor, newName, &status) == 0 {
            if call.tree.isHidden(status) { return call.fail(EBUSY) }
            replaced = client.useKnown(status)
            renamed.replaced = call.tree.inode(status.inode, device: status.device)
        }
        let result = lego_file_rename(parent.descriptor, name, newParent.descriptor, newName, flags)
        if result < 0 { return call.fail(result) }
        if renamed.moved == renamed.replaced {
            // Two names of one file: rename(2) does nothing and both stay.
            renamed.replaced = 0
            return call.answer(renamed)
        }
        if let replaced {
            if flags & exchange != 0 {
                client.moved(replaced, parent: parent.node, name: name)
            } else {
                client.removed(replaced, parent: newParent.node, name: newName)
            }
        }
        if let moved { client.moved(moved, parent: newParent.node, name: newName) }
        return call.answer(renamed)
    }
}
