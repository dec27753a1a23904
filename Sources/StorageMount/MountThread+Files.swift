import CFuse
import Glibc
import Kernel
import Lite
import Wire

// Operations on open files.
extension MountThread {
    func open(_ fuse: OpaquePointer, _ inode: UInt64, _ file: UnsafeMutablePointer<fuse_file_info>) {
        let flags = UInt32(bitPattern: file.pointee.flags)
        guard let opened = open(fuse, inode, flags: flags) else { return }
        // Close-to-open: cached pages are good if the file is what it was when this processor opened it last.
        let isUnchanged = mount.inodes.stamp(inode, opened.attributes)
        file.pointee.keep_cache = isUnchanged ? 1 : 0
        answerOpen(fuse, file, opened.handle)
    }

    func openDirectory(_ fuse: OpaquePointer, _ inode: UInt64, _ file: UnsafeMutablePointer<fuse_file_info>) {
        guard let opened = open(fuse, inode, flags: UInt32(O_RDONLY | O_DIRECTORY)) else { return }
        answerOpen(fuse, file, opened.handle)
    }

    /// Opens and takes the file into the table; nil when the request was answered with an error.
    private func open(
        _ fuse: OpaquePointer, _ inode: UInt64, flags: UInt32
    ) -> (handle: UInt64, attributes: StorageAttributes)? {
        let reply = perform(StorageFunction.open) { session in
            guard let node = handle(inode, session) else { return Int(-ESTALE) }
            return encode(ProcessorStorageOpen(node: node, flags: flags, clearsSetID: clearsSetID))
        }
        if reply.error != 0 {
            fuse_reply_err(fuse, reply.error)
            return nil
        }
        guard let opened: StorageProcessorOpened = decode(reply),
            let handle = mount.files.insert(
                OpenFileTable.OpenFile(inode: inode, flags: flags, handle: opened.file, session: reply.session))
        else {
            fuse_reply_err(fuse, EIO)
            return nil
        }
        return (handle, opened.attributes)
    }

    private func answerOpen(_ fuse: OpaquePointer, _ file: UnsafeMutablePointer<fuse_file_info>, _ handle: UInt64) {
        file.pointee.fh = handle
        // ENOENT: the program was killed meanwhile, and nobody will release the file.
        if fuse_reply_open(fuse, file) == -ENOENT { release(handle) }
    }

    func release(_ fuse: OpaquePointer, _ file: UnsafeMutablePointer<fuse_file_info>) {
        release(file.pointee.fh)
        fuse_reply_err(fuse, 0)
    }

    func release(_ handle: UInt64) {
        dropBatch(handle)
        let file = mount.files.find(handle)
        // What was lent is closed before the component hears that nobody has the file open any more.
        mount.files.remove(handle)
        if let file { mount.returns.release(file.handle, session: file.session) }
    }

    func read(
        _ fuse: OpaquePointer, _ file: UnsafeMutablePointer<fuse_file_info>, count: Int, offset: off_t
    ) {
        let wanted = min(count, transfer.count)
        if let lent = lentFile(file.pointee.fh) {
            let place = UnsafeMutableRawBufferPointer(rebasing: transfer[..<wanted])
            let moved = FileTransfer.read(lent, into: place, at: UInt64(truncatingIfNeeded: offset))
            if moved < 0 {
                fuse_reply_err(fuse, Int32(-moved))
            } else {
                fuse_reply_buf(fuse, transfer.assumingMemoryBound(to: CChar.self).baseAddress, moved)
            }
            return
        }
        let reply = perform(StorageFunction.read, .transfer) { session in
            guard let handle = fileHandle(file.pointee.fh, session) else { return Int(-ESTALE) }
            return encode(
                ProcessorStorageTransfer(
                    file: handle, offset: UInt64(truncatingIfNeeded: offset),
                    poolOffset: UInt64(transfer.baseAddress! - node.pool.baseAddress!), count: UInt32(wanted)))
        }
        guard reply.error == 0, let moved: StorageProcessorCount = decode(reply), moved.count <= UInt64(wanted) else {
            fuse_reply_err(fuse, reply.error == 0 ? EIO : reply.error)
            return
        }
        fuse_reply_buf(fuse, transfer.assumingMemoryBound(to: CChar.self).baseAddress, Int(moved.count))
    }

    func write(
        _ fuse: OpaquePointer, _ file: UnsafeMutablePointer<fuse_file_info>, _ bytes: UnsafeRawPointer, count: Int,
        offset: off_t
    ) {
        if count > StorageLimit.transferBytes_max {
            fuse_reply_err(fuse, EINVAL)
            return
        }
        if let lent = lentFile(file.pointee.fh) {
            let moved = FileTransfer.write(
                lent, UnsafeRawBufferPointer(start: bytes, count: count), at: UInt64(truncatingIfNeeded: offset),
                clearsSetID: clearsSetID)
            if moved < 0 {
                fuse_reply_err(fuse, Int32(-moved))
            } else {
                fuse_reply_write(fuse, moved)
            }
            return
        }
        let place = poolOffset(bytes, count)
        // An append that is repeated would be there twice.
        let kind: CallKind = file.pointee.flags & O_APPEND != 0 ? .appending : .transfer
        let reply = perform(StorageFunction.write, kind) { session in
            guard let handle = fileHandle(file.pointee.fh, session) else { return Int(-ESTALE) }
            return encode(
                ProcessorStorageTransfer(
                    file: handle, offset: UInt64(truncatingIfNeeded: offset), poolOffset: place,
                    count: UInt32(count), clearsSetID: clearsSetID))
        }
        guard reply.error == 0, let moved: StorageProcessorCount = decode(reply), moved.count <= UInt64(count) else {
            fuse_reply_err(fuse, reply.error == 0 ? EIO : reply.error)
            return
        }
        fuse_reply_write(fuse, Int(moved.count))
    }

    func synchronize(_ fuse: OpaquePointer, _ file: UnsafeMutablePointer<fuse_file_info>, dataOnly: Bool) {
        // Not repeated: what a component that died had not yet put on disk would be reported as safe.
        let reply = perform(StorageFunction.synchronize, .once) { session in
            guard let handle = fileHandle(file.pointee.fh, session) else { return Int(-ESTALE) }
            return encode(ProcessorStorageFile(file: handle, dataOnly: dataOnly))
        }
        fuse_reply_err(fuse, reply.error)
    }

    func allocate(
        _ fuse: OpaquePointer, _ file: UnsafeMutablePointer<fuse_file_info>, mode: Int32, offset: off_t, count: off_t
    ) {
        // The kernel says nothing of it here.
        let clearsSetID = fuse_req_ctx(fuse).pointee.uid != 0
        let reply = perform(StorageFunction.allocate) { session in
            guard let handle = fileHandle(file.pointee.fh, session) else { return Int(-ESTALE) }
            return encode(
                ProcessorStorageRange(
                    file: handle, mode: UInt32(bitPattern: mode), offset: UInt64(truncatingIfNeeded: offset),
                    count: UInt64(truncatingIfNeeded: count), clearsSetID: clearsSetID))
        }
        fuse_reply_err(fuse, reply.error)
    }

    func seek(
        _ fuse: OpaquePointer, _ file: UnsafeMutablePointer<fuse_file_info>, offset: off_t, whence: Int32
    ) {
        let reply = perform(StorageFunction.seek) { session in
            guard let handle = fileHandle(file.pointee.fh, session) else { return Int(-ESTALE) }
            return encode(
                ProcessorStorageRange(
                    file: handle, mode: UInt32(bitPattern: whence), offset: UInt64(truncatingIfNeeded: offset),
                    count: 0))
        }
        guard reply.error == 0, let position: StorageProcessorCount = decode(reply) else {
            fuse_reply_err(fuse, reply.error == 0 ? EIO : reply.error)
            return
        }
        fuse_reply_lseek(fuse, off_t(truncatingIfNeeded: position.count))
    }

    func copy(
        _ fuse: OpaquePointer, from source: UnsafeMutablePointer<fuse_file_info>, _ sourceOffset: off_t,
        to target: UnsafeMutablePointer<fuse_file_info>, _ targetOffset: off_t, count: Int
    ) {
        let clearsSetID = fuse_req_ctx(fuse).pointee.uid != 0
        let reply = perform(StorageFunction.copy) { session in
            guard let from = fileHandle(source.pointee.fh, session), let to = fileHandle(target.pointee.fh, session)
            else { return Int(-ESTALE) }
            return encode(
                ProcessorStorageCopy(
                    source: from, sourceOffset: UInt64(truncatingIfNeeded: sourceOffset), target: to,
                    targetOffset: UInt64(truncatingIfNeeded: targetOffset), count: UInt64(count),
                    clearsSetID: clearsSetID))
        }
        guard reply.error == 0, let copied: StorageProcessorCount = decode(reply), copied.count <= UInt64(count) else {
            fuse_reply_err(fuse, reply.error == 0 ? EIO : reply.error)
            return
        }
        fuse_reply_write(fuse, Int(copied.count))
    }
}
