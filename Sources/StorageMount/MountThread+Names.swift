import CFuse
import Glibc
import Kernel
import Lite
import Wire

// Operations on names. A request without an answer from the storage component fails with EIO.
extension MountThread {
    private func bytes(_ name: UnsafePointer<CChar>) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: name, count: strlen(name))
    }

    func lookUp(_ fuse: OpaquePointer, _ parent: UInt64, _ name: UnsafePointer<CChar>) {
        // The kernel's own limit is larger. Whatever makes a name looks it up first.
        if strlen(name) > StorageLimit.name_max {
            fuse_reply_err(fuse, ENAMETOOLONG)
            return
        }
        let reply = find(parent, name)
        if reply.error == ENOENT {
            var absent = fuse_entry_param()
            absent.entry_timeout = lookUpTimeout(parent, name, 0, StorageAttributes())
            fuse_reply_entry(fuse, &absent)
            return
        }
        answerEntry(fuse, reply, parent, name, isLookUp: true)
    }

    /// Asks the component for a name. What the host has exchanged is found when nobody has the old one open any more. That
    /// this processor's programs have closed it the kernel says some time after close(2) has returned, and another
    /// processor gathers what it has to say: so much is waited for.
    private func find(_ parent: UInt64, _ name: UnsafePointer<CChar>) -> StorageReply {
        let deadline = Deadline.after(Self.exchangePatience)
        // To ask once more at once is enough where it was the look-up itself that used a directory.
        var pause = Duration.zero
        while true {
            let isLast = deadline.hasPassed
            let reply = perform(isLast ? StorageFunction.lookUpOpen : StorageFunction.lookUp) { session in
                guard let directory = handle(parent, session) else { return Int(-ESTALE) }
                return encode(ProcessorStorageName(parent: directory, name: bytes(name)))
            }
            if reply.error != EBUSY || isLast { return reply }
            mount.returns.flush(orNextUntil: min(deadline, .after(pause)))
            pause = Self.exchangePause
        }
    }

    private static let exchangePatience = HandleReturns.delay + .milliseconds(10)
    private static let exchangePause: Duration = .milliseconds(10)

    /// How long the kernel may use the answer to a look-up, in seconds.
    private func lookUpTimeout(
        _ parent: UInt64, _ name: UnsafePointer<CChar>, _ inode: UInt64, _ attributes: StorageAttributes
    ) -> Double {
        mount.watched.timeout(parent: parent, name: name, inode: inode, attributes)
            ?? mount.recent.timeout(parent: parent, name: name, inode: inode)
    }

    /// Answers with the entry that the storage component answered, and takes it into the table.
    private func answerEntry(
        _ fuse: OpaquePointer, _ reply: StorageReply, _ parent: UInt64, _ name: UnsafePointer<CChar>,
        isLookUp: Bool = false
    ) {
        if reply.error != 0 {
            fuse_reply_err(fuse, reply.error)
            return
        }
        guard let entry: StorageEntry = decode(reply),
            var parameters = take(entry, reply.session, parent, name, isLookUp: isLookUp)
        else {
            fuse_reply_err(fuse, EIO)
            return
        }
        // ENOENT: the program was killed meanwhile, and the kernel has not counted the entry.
        if fuse_reply_entry(fuse, &parameters) == -ENOENT { forget(parameters.ino, lookups: 1) }
    }

    /// Takes an entry into the table, counted once for the kernel.
    func take(
        _ entry: StorageEntry, _ session: UInt32, _ parent: UInt64, _ name: UnsafePointer<CChar>, isLookUp: Bool = false
    ) -> fuse_entry_param? {
        guard let number = mount.inodes.remember(entry, session: session, parent: parent, name: name) else {
            return nil
        }
        var parameters = fuse_entry_param()
        parameters.ino = number
        parameters.attr = status(entry.attributes)
        parameters.entry_timeout =
            isLookUp
            ? lookUpTimeout(parent, name, number, entry.attributes)
            : mount.recent.timeout(parent: parent, name: name, inode: number)
        parameters.attr_timeout = parameters.entry_timeout
        return parameters
    }

    func forget(_ fuse: OpaquePointer, _ inode: UInt64, _ lookups: UInt64) {
        forget(inode, lookups: lookups)
        fuse_reply_none(fuse)
    }

    func forget(_ fuse: OpaquePointer, _ items: UnsafeBufferPointer<fuse_forget_data>) {
        for item in items { forget(item.ino, lookups: item.nlookup) }
        fuse_reply_none(fuse)
    }

    func forget(_ inode: UInt64, lookups: UInt64) {
        let session = mount.link.current?.number ?? 0
        for item in mount.inodes.forget(inode, lookups: lookups, session: session) {
            mount.returns.forget(item.node, references: item.references, session: session)
        }
    }

    func make(
        _ fuse: OpaquePointer, _ parent: UInt64, _ name: UnsafePointer<CChar>, mode: UInt32, special: UInt32 = 0,
        target: UnsafePointer<CChar>? = nil
    ) {
        let context = fuse_req_ctx(fuse).pointee
        let empty = UnsafeRawBufferPointer(start: nil, count: 0)
        let reply = perform(StorageFunction.makeNode, .once) { session in
            guard let directory = handle(parent, session) else { return Int(-ESTALE) }
            return encode(
                ProcessorStorageMake(
                    parent: directory, mode: mode, user: context.uid, group: context.gid, special: special,
                    name: bytes(name), target: target.map { bytes($0) } ?? empty))
        }
        answerEntry(fuse, reply, parent, name)
    }

    func link(_ fuse: OpaquePointer, _ inode: UInt64, _ parent: UInt64, _ name: UnsafePointer<CChar>) {
        let reply = perform(StorageFunction.makeLink, .once) { session in
            guard let node = handle(inode, session), let directory = handle(parent, session) else {
                return Int(-ESTALE)
            }
            return encode(ProcessorStorageLink(node: node, parent: directory, name: bytes(name)))
        }
        answerEntry(fuse, reply, parent, name)
    }

    func remove(
        _ fuse: OpaquePointer, _ parent: UInt64, _ name: UnsafePointer<CChar>, _ function: FunctionID
    ) {
        let reply = perform(function, .once) { session in
            guard let directory = handle(parent, session) else { return Int(-ESTALE) }
            return encode(ProcessorStorageName(parent: directory, name: bytes(name)))
        }
        if reply.error == 0, let removed: StorageProcessorCount = decode(reply) {
            mount.inodes.removed(inode: removed.count, parent: parent, name: name)
        }
        fuse_reply_err(fuse, reply.error)
    }

    func rename(
        _ fuse: OpaquePointer, _ parent: UInt64, _ name: UnsafePointer<CChar>, _ newParent: UInt64,
        _ newName: UnsafePointer<CChar>, _ flags: UInt32
    ) {
        let reply = perform(StorageFunction.rename, .once) { session in
            guard let from = handle(parent, session), let to = handle(newParent, session) else {
                return Int(-ESTALE)
            }
            return encode(
                ProcessorStorageRename(
                    parent: from, newParent: to, flags: flags, name: bytes(name), newName: bytes(newName)))
        }
        if reply.error == 0, let renamed: StorageProcessorRenamed = decode(reply) {
            let exchange: UInt32 = 2  // RENAME_EXCHANGE
            if flags & exchange != 0 {
                mount.inodes.moved(inode: renamed.replaced, parent: parent, name: name)
            } else if renamed.replaced != 0 {
                mount.inodes.removed(inode: renamed.replaced, parent: newParent, name: newName)
            }
            mount.inodes.moved(inode: renamed.moved, parent: newParent, name: newName)
        }
        fuse_reply_err(fuse, reply.error)
    }

    func create(
        _ fuse: OpaquePointer, _ parent: UInt64, _ name: UnsafePointer<CChar>, _ mode: mode_t,
        _ file: UnsafeMutablePointer<fuse_file_info>
    ) {
        let context = fuse_req_ctx(fuse).pointee
        let flags = UInt32(bitPattern: file.pointee.flags)
        if file.pointee.flags & Self.coreFlags == Self.coreFlags { prepareCore(context.pid) }
        let reply = perform(StorageFunction.create, .once) { session in
            guard let directory = handle(parent, session) else { return Int(-ESTALE) }
            return encode(
                ProcessorStorageMake(
                    parent: directory, mode: mode & 0o7777 | S_IFREG, user: context.uid, group: context.gid,
                    flags: flags, name: bytes(name)))
        }
        if reply.error != 0 {
            fuse_reply_err(fuse, reply.error)
            return
        }
        guard let created: StorageProcessorCreated = decode(reply),
            var parameters = take(created.entry, reply.session, parent, name),
            let handle = mount.files.insert(
                OpenFileTable.OpenFile(
                    inode: parameters.ino, flags: flags, handle: created.file, session: reply.session))
        else {
            fuse_reply_err(fuse, EIO)
            return
        }
        _ = mount.inodes.stamp(parameters.ino, created.entry.attributes)
        file.pointee.fh = handle
        if fuse_reply_create(fuse, &parameters, file) == -ENOENT {
            release(handle)
            forget(parameters.ino, lookups: 1)
        }
    }
}
