import CFuse
import Glibc
import Kernel
import Lite
import Wire

// Operations on inodes by number: attributes, links, extended attributes.
extension MountThread {
    /// What stat(2) shows.
    func status(_ attributes: StorageAttributes) -> stat {
        var status = stat()
        status.st_ino = ino_t(attributes.inode)
        status.st_size = off_t(truncatingIfNeeded: attributes.size)
        status.st_blocks = blkcnt_t(truncatingIfNeeded: attributes.blocks)
        status.st_atim = timespec(
            tv_sec: Int(attributes.accessSeconds), tv_nsec: Int(attributes.accessNanoseconds))
        status.st_mtim = timespec(
            tv_sec: Int(attributes.modifySeconds), tv_nsec: Int(attributes.modifyNanoseconds))
        status.st_ctim = timespec(
            tv_sec: Int(attributes.changeSeconds), tv_nsec: Int(attributes.changeNanoseconds))
        status.st_mode = attributes.mode
        status.st_nlink = nlink_t(attributes.links)
        status.st_uid = attributes.user
        status.st_gid = attributes.group
        status.st_rdev = dev_t(attributes.special)
        let isFile = attributes.mode & UInt32(S_IFMT) == UInt32(S_IFREG)
        status.st_blksize = blksize_t(
            isFile ? max(attributes.blockBytes, StorageLimit.blockBytes) : attributes.blockBytes)
        return status
    }

    /// A request whose body is the inode's handle alone.
    private func performNode(_ function: FunctionID, _ inode: UInt64) -> StorageReply {
        perform(function) { session in
            guard let node = handle(inode, session) else { return Int(-ESTALE) }
            return encode(ProcessorStorageNode(node: node))
        }
    }

    private func answerAttributes(
        _ fuse: OpaquePointer, _ inode: UInt64, _ reply: StorageReply, isQuestion: Bool = false
    ) {
        guard reply.error == 0, let attributes: StorageAttributes = decode(reply) else {
            fuse_reply_err(fuse, reply.error == 0 ? EIO : reply.error)
            return
        }
        mount.inodes.refresh(inode, attributes)
        var status = status(attributes)
        let watched = isQuestion ? mount.watched.timeout(parent: inode, name: "", inode: inode, attributes) : nil
        fuse_reply_attr(fuse, &status, watched ?? mount.recent.timeout(inode: inode))
    }

    func getAttributes(_ fuse: OpaquePointer, _ inode: UInt64) {
        answerAttributes(fuse, inode, performNode(StorageFunction.getAttributes, inode), isQuestion: true)
    }

    func setAttributes(
        _ fuse: OpaquePointer, _ inode: UInt64, _ wanted: UnsafeMutablePointer<stat>, _ changed: Int32
    ) {
        var fields: ProcessorStorageSetAttributes.Fields = []
        for (bit, field) in [
            (FUSE_SET_ATTR_MODE, ProcessorStorageSetAttributes.Fields.mode), (FUSE_SET_ATTR_UID, .user),
            (FUSE_SET_ATTR_GID, .group), (FUSE_SET_ATTR_SIZE, .size), (FUSE_SET_ATTR_ATIME, .accessTime),
            (FUSE_SET_ATTR_MTIME, .modifyTime), (FUSE_SET_ATTR_ATIME_NOW, .accessTimeNow),
            (FUSE_SET_ATTR_MTIME_NOW, .modifyTimeNow),
        ] where changed & bit != 0 { fields.insert(field) }
        if clearsSetID { fields.insert(.clearsSetID) }
        let status = wanted.pointee
        let reply = perform(StorageFunction.setAttributes) { session in
            guard let node = handle(inode, session) else { return Int(-ESTALE) }
            var message = ProcessorStorageSetAttributes(node: node, fields: fields)
            message.mode = status.st_mode
            message.user = status.st_uid
            message.group = status.st_gid
            message.size = UInt64(truncatingIfNeeded: status.st_size)
            message.accessSeconds = Int64(status.st_atim.tv_sec)
            message.modifySeconds = Int64(status.st_mtim.tv_sec)
            // The fields mean nothing unless they are asked for.
            if fields.contains(.accessTime) {
                message.accessNanoseconds = UInt32(truncatingIfNeeded: status.st_atim.tv_nsec)
            }
            if fields.contains(.modifyTime) {
                message.modifyNanoseconds = UInt32(truncatingIfNeeded: status.st_mtim.tv_nsec)
            }
            return encode(message)
        }
        answerAttributes(fuse, inode, reply)
    }

    func readLink(_ fuse: OpaquePointer, _ inode: UInt64) {
        let reply = performNode(StorageFunction.readLink, inode)
        guard reply.error == 0, reply.count <= StorageLimit.target_max else {
            fuse_reply_err(fuse, reply.error == 0 ? EIO : reply.error)
            return
        }
        response[reply.count] = 0
        fuse_reply_readlink(fuse, response.assumingMemoryBound(to: CChar.self).baseAddress!)
    }

    func fileSystemStatus(_ fuse: OpaquePointer, _ inode: UInt64) {
        let reply = performNode(StorageFunction.fileSystemStatus, inode == 0 ? InodeTable.root : inode)
        guard reply.error == 0, let status: StorageFileSystemStatus = decode(reply) else {
            fuse_reply_err(fuse, reply.error == 0 ? EIO : reply.error)
            return
        }
        var answer = statvfs()
        answer.f_bsize = UInt(status.blockBytes)
        answer.f_frsize = UInt(status.blockBytes)
        answer.f_blocks = UInt(status.blocks)
        answer.f_bfree = UInt(status.blocksFree)
        answer.f_bavail = UInt(status.blocksAvailable)
        answer.f_files = UInt(status.inodes)
        answer.f_ffree = UInt(status.inodesFree)
        answer.f_favail = UInt(status.inodesFree)
        answer.f_namemax = UInt(StorageLimit.name_max)
        fuse_reply_statfs(fuse, &answer)
    }

    private func isCapability(_ name: UnsafePointer<CChar>) -> Bool { strcmp(name, "security.capability") == 0 }

    /// Whether the storage component keeps such attributes; the rest (ACLs, labels) is refused here, as most file
    /// systems do.
    private func isKept(_ name: UnsafePointer<CChar>) -> Bool {
        strncmp(name, "user.", 5) == 0 || isCapability(name)
    }

    private func message(
        _ node: UInt64, _ name: UnsafePointer<CChar>, _ flags: Int32 = 0,
        _ value: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0)
    ) -> ProcessorStorageExtended {
        ProcessorStorageExtended(
            node: node, flags: UInt32(bitPattern: flags),
            name: UnsafeRawBufferPointer(start: name, count: strlen(name)), value: value)
    }

    /// Answers with the bytes in the response, or with their count to a caller that gave no room.
    private func answerBytes(_ fuse: OpaquePointer, _ reply: StorageReply, capacity: Int) {
        if reply.error != 0 {
            fuse_reply_err(fuse, reply.error)
        } else if capacity == 0 {
            fuse_reply_xattr(fuse, reply.count)
        } else if reply.count > capacity {
            fuse_reply_err(fuse, ERANGE)
        } else {
            fuse_reply_buf(fuse, response.assumingMemoryBound(to: CChar.self).baseAddress, reply.count)
        }
    }

    func getExtended(_ fuse: OpaquePointer, _ inode: UInt64, _ name: UnsafePointer<CChar>, capacity: Int) {
        if !isKept(name) {
            fuse_reply_err(fuse, EOPNOTSUPP)
            return
        }
        let isCapability = isCapability(name)
        if isCapability && mount.inodes.isPlain(inode) {
            fuse_reply_err(fuse, ENODATA)
            return
        }
        let reply = perform(StorageFunction.getExtended) { session in
            guard let node = handle(inode, session) else { return Int(-ESTALE) }
            return encode(message(node, name))
        }
        if isCapability && reply.error == ENODATA {
            mount.inodes.setPlain(inode, for: .seconds(StorageMount.attributeTimeout))
        }
        answerBytes(fuse, reply, capacity: capacity)
    }

    func listExtended(_ fuse: OpaquePointer, _ inode: UInt64, capacity: Int) {
        answerBytes(fuse, performNode(StorageFunction.listExtended, inode), capacity: capacity)
    }

    func setExtended(
        _ fuse: OpaquePointer, _ inode: UInt64, _ name: UnsafePointer<CChar>, _ value: UnsafeRawBufferPointer,
        flags: Int32
    ) {
        if !isKept(name) || value.count > StorageLimit.answerBytes_max {
            fuse_reply_err(fuse, isKept(name) ? E2BIG : EOPNOTSUPP)
            return
        }
        let reply = perform(StorageFunction.setExtended) { session in
            guard let node = handle(inode, session) else { return Int(-ESTALE) }
            return encode(message(node, name, flags, value))
        }
        fuse_reply_err(fuse, reply.error)
    }

    func removeExtended(_ fuse: OpaquePointer, _ inode: UInt64, _ name: UnsafePointer<CChar>) {
        if !isKept(name) {
            fuse_reply_err(fuse, EOPNOTSUPP)
            return
        }
        let reply = perform(StorageFunction.removeExtended) { session in
            guard let node = handle(inode, session) else { return Int(-ESTALE) }
            return encode(message(node, name))
        }
        fuse_reply_err(fuse, reply.error)
    }
}
