import CLinux
import Glibc
import Kernel
import Lite
import Wire

// Handlers: open files. On workers.
extension StorageService {
    /// What a client may ask of open(2); the rest is its own kernel's business.
    private static let openFlags = UInt32(O_ACCMODE | O_APPEND | O_TRUNC | O_SYNC | O_DSYNC)

    func open(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageOpen(decoding: call.request) else { return call.malformed }
        return call.withNode(message.node) { node in
            var flags = Int32(message.flags & Self.openFlags)
            if node.isDirectory {
                flags = O_RDONLY | O_DIRECTORY
            } else if node.type != UInt32(S_IFREG) {
                return call.fail(ENXIO)
            }
            let isWriting = flags & O_ACCMODE != O_RDONLY || flags & O_TRUNC != 0
            if isWriting && configuration.isReadOnly { return call.fail(EROFS) }
            let descriptor = lego_file_open(node.descriptor, flags)
            if descriptor < 0 { return call.fail(descriptor) }
            let clears = message.clearsSetID && flags & O_TRUNC != 0
            var status = lego_file_status()
            var result = clears ? lego_file_clear_set_id(descriptor) : 0
            if result == 0 { result = lego_file_status(descriptor, "", &status) }
            if result < 0 {
                close(descriptor)
                return call.fail(result)
            }
            guard
                let file = call.client.opened(
                    descriptor, node: node.node, isDirectory: node.isDirectory, device: status.device)
            else { return call.fail(ENFILE) }
            call.client.refresh(node, status)
            return call.answer(StorageProcessorOpened(file: file, attributes: call.attributes(status)))
        }
    }

    func create(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageMake(decoding: call.request) else { return call.malformed }
        if message.mode & UInt32(S_IFMT) != UInt32(S_IFREG) { return call.fail(EINVAL) }
        return call.withName(message.name) { name in
            call.withDirectory(message.parent) { parent in
                let identity = lego_thread_create_as(message.user, message.group)
                if identity < 0 { return call.fail(identity) }
                let flags = Int32(message.flags & Self.openFlags) & ~O_TRUNC
                let descriptor = lego_file_create(parent.descriptor, name, flags, message.mode)
                if descriptor < 0 {
                    // The client's kernel did not know the file and so did not check permissions: it must look again.
                    let isExclusive = message.flags & UInt32(O_EXCL) != 0
                    return call.fail(descriptor == -EEXIST && !isExclusive ? ESTALE : descriptor)
                }
                var status = lego_file_status()
                let result = lego_file_status(descriptor, "", &status)
                guard result == 0, let node = call.client.remember(parent: parent.node, name: name, status) else {
                    close(descriptor)
                    return call.fail(result < 0 ? result : ENFILE)
                }
                // The node is opened while its name is certain: from now on it must stay open.
                let use = call.client.use(node)
                guard use.descriptor >= 0,
                    let file = call.client.opened(descriptor, node: node, isDirectory: false, device: status.device)
                else {
                    if use.descriptor >= 0 { call.client.endUse(use) } else { close(descriptor) }
                    call.client.forget(node, references: 1)
                    return call.fail(ENFILE)
                }
                call.client.endUse(use)
                let entry = StorageEntry(node: node, attributes: call.attributes(status))
                return call.answer(StorageProcessorCreated(file: file, entry: entry))
            }
        }
    }

    /// Reads into a staging buffer and writes that into the caller's pool, in pieces that stay in the processor's
    /// cache.
    func read(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageTransfer(decoding: call.request) else { return call.malformed }
        return call.withFile(message.file) { file in
            guard let staging = takeStaging() else { return CallResult(status: .busy) }
            defer { giveBack(staging) }
            let deadline = Deadline.after(configuration.transferTimeout)
            let total = Int(message.count)
            var moved = 0
            while moved < total {
                let wanted = UnsafeMutableRawBufferPointer(
                    start: staging.baseAddress!, count: min(total - moved, Self.pieceBytes))
                let count = FileTransfer.read(file.descriptor, into: wanted, at: message.offset &+ UInt64(moved))
                if count < 0 { return call.fail(Int32(count)) }
                if count == 0 { break }
                let piece = Transfer(
                    local: staging.baseAddress!, remoteOffset: message.poolOffset &+ UInt64(moved), count: count)
                let status = withUnsafePointer(to: piece) {
                    node.write(call.client.peer, UnsafeBufferPointer(start: $0, count: 1), until: deadline)
                }
                if !status.isOK { return CallResult(status: status) }
                moved += count
            }
            return call.answer(StorageProcessorCount(count: UInt64(moved)))
        }
    }

    private static let pieceBytes = 256 << 10

    /// Reads from the caller's pool into a staging buffer and writes that to the file.
    func write(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageTransfer(decoding: call.request) else { return call.malformed }
        return call.withFile(message.file) { file in
            guard let staging = takeStaging() else { return CallResult(status: .busy) }
            defer { giveBack(staging) }
            let deadline = Deadline.after(configuration.transferTimeout)
            let total = Int(message.count)
            // All of it before the first byte is written: what cannot be fetched leaves the file as it was.
            let piece = Transfer(local: staging.baseAddress!, remoteOffset: message.poolOffset, count: total)
            let status = withUnsafePointer(to: piece) {
                node.read(call.client.peer, UnsafeBufferPointer(start: $0, count: 1), until: deadline)
            }
            if !status.isOK { return CallResult(status: status) }
            let bytes = UnsafeRawBufferPointer(start: staging.baseAddress!, count: total)
            let moved = FileTransfer.write(
                file.descriptor, bytes, at: message.offset, clearsSetID: message.clearsSetID)
            if moved < 0 { return call.fail(Int32(moved)) }
            return call.answer(StorageProcessorCount(count: UInt64(moved)))
        }
    }

    /// Tells a processor on this host the descriptor of an open file: it takes a copy (pidfd_getfd(2)) and transfers by itself.
    func lend(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageFile(decoding: call.request) else { return call.malformed }
        if node.localProcess(of: call.client.peer) == nil { return call.fail(EOPNOTSUPP) }
        return call.withFile(message.file) { file in
            if file.isDirectory { return call.fail(EISDIR) }
            return call.answer(StorageProcessorCount(count: UInt64(file.descriptor)))
        }
    }

    func synchronize(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageFile(decoding: call.request) else { return call.malformed }
        return call.withFile(message.file) { file in
            let result = message.dataOnly ? fdatasync(file.descriptor) : fsync(file.descriptor)
            return result < 0 ? call.fail(errno) : call.done
        }
    }

    func allocate(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageRange(decoding: call.request) else { return call.malformed }
        return call.withFile(message.file) { file in
            let cleared = message.clearsSetID ? lego_file_clear_set_id(file.descriptor) : 0
            if cleared < 0 { return call.fail(cleared) }
            return call.answer(
                lego_file_allocate(
                    file.descriptor, Int32(truncatingIfNeeded: message.mode), Int64(message.offset),
                    Int64(message.count)))
        }
    }

    func seek(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageRange(decoding: call.request) else { return call.malformed }
        let (data, hole): (UInt32, UInt32) = (3, 4)
        if message.mode != data && message.mode != hole { return call.fail(EINVAL) }
        return call.withFile(message.file) { file in
            // The descriptor's own position means nothing: every transfer names its offset.
            let position = lseek(file.descriptor, off_t(message.offset), Int32(message.mode))
            return position < 0 ? call.fail(errno) : call.answer(StorageProcessorCount(count: UInt64(position)))
        }
    }

    func copy(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageCopy(decoding: call.request) else { return call.malformed }
        // A bounded piece at a time, so that the answer comes within the caller's deadline.
        let count = min(message.count, 16 << 20)
        return call.withFile(message.source) { source in
            call.withFile(message.target) { target in
                let cleared = message.clearsSetID ? lego_file_clear_set_id(target.descriptor) : 0
                if cleared < 0 { return call.fail(cleared) }
                let copied = lego_file_copy(
                    source.descriptor, Int64(message.sourceOffset), target.descriptor, Int64(message.targetOffset),
                    Int(count))
                if copied < 0 { return call.fail(Int32(copied)) }
                return call.answer(StorageProcessorCount(count: UInt64(copied)))
            }
        }
    }
}
