import CFuse
import Glibc
import Kernel
import Lite
import Wire

// Listing directories: what one call to the storage component brings serves several questions of the kernel.
extension MountThread {
    func readDirectory(
        _ fuse: OpaquePointer, _ inode: UInt64, _ file: UnsafeMutablePointer<fuse_file_info>, _ capacity: Int,
        _ position: off_t, entries: Bool
    ) {
        guard let batch = mount.files.batch(file.pointee.fh) else {
            fuse_reply_err(fuse, EBADF)
            return
        }
        let room = min(capacity, listing.count)
        var used = 0
        var position = Int64(position)
        while true {
            let isAtHand =
                batch.pointee.offset < batch.pointee.count && batch.pointee.position == position
                && batch.pointee.hasEntries == entries
            if !isAtHand {
                // What is written already is a good answer.
                if used > 0 { break }
                let error = fill(file.pointee.fh, batch, position, entries)
                if error != 0 {
                    fuse_reply_err(fuse, error)
                    return
                }
                if batch.pointee.count == 0 { break }
            }
            guard let next = deliver(fuse, inode, batch, room, &used) else { break }
            position = next
        }
        fuse_reply_buf(fuse, listing.assumingMemoryBound(to: CChar.self).baseAddress, used)
    }

    /// Fetches the entries from `position` on. 0 or an error number; an empty batch is the end.
    private func fill(
        _ file: UInt64, _ batch: UnsafeMutablePointer<DirectoryBatch>, _ position: Int64, _ entries: Bool
    ) -> Int32 {
        giveBack(batch)
        let reply = perform(StorageFunction.readDirectory) { session in
            guard let handle = fileHandle(file, session) else { return Int(-ESTALE) }
            return encode(ProcessorStorageReadDirectory(file: handle, position: position, entries: entries))
        }
        if reply.error != 0 { return reply.error }
        let bytes =
            batch.pointee.bytes
            ?? UnsafeMutableRawPointer.allocate(byteCount: StorageLimit.answerBytes_max, alignment: 16)
        let count = min(reply.count, StorageLimit.answerBytes_max)
        bytes.copyMemory(from: response.baseAddress!, byteCount: count)
        batch.pointee = DirectoryBatch(
            bytes: bytes, count: count, offset: 0, position: position, hasEntries: entries, session: reply.session)
        return 0
    }

    /// The next entry of a batch and its length; nil at the end, or where the bytes make no sense.
    private func peek(_ batch: UnsafeMutablePointer<DirectoryBatch>) -> (entry: StorageDirectoryEntry, count: Int)? {
        let rest = UnsafeRawBufferPointer(
            start: batch.pointee.bytes.map { $0 + batch.pointee.offset },
            count: batch.pointee.count - batch.pointee.offset)
        var reader = WireReader(rest)
        guard !rest.isEmpty, let entry = StorageDirectoryEntry(from: &reader) else {
            batch.pointee.offset = batch.pointee.count
            return nil
        }
        return (entry, rest.count - reader.remaining)
    }

    /// Puts the next entry of a batch into the listing, in the kernel's form; answers where the directory goes on, or
    /// nil when there is no room, or no entry.
    private func deliver(
        _ fuse: OpaquePointer, _ directory: UInt64, _ batch: UnsafeMutablePointer<DirectoryBatch>, _ room: Int,
        _ used: inout Int
    ) -> Int64? {
        guard let (entry, length) = peek(batch) else { return nil }
        let place = listing.assumingMemoryBound(to: CChar.self).baseAddress! + used
        return withUnsafeTemporaryAllocation(of: CChar.self, capacity: entry.name.count + 1) { name -> Int64? in
            UnsafeMutableRawBufferPointer(name).copyMemory(from: entry.name)
            name[entry.name.count] = 0
            let needed: Int
            if let node = entry.entry {
                needed = fuse_add_direntry_plus(fuse, nil, 0, name.baseAddress, nil, 0)
                if needed > room - used { return nil }
                var parameters = plainEntry(entry)
                if node.node != 0 {
                    guard let taken = take(node, batch.pointee.session, directory, name.baseAddress!) else {
                        return nil
                    }
                    parameters = taken
                }
                fuse_add_direntry_plus(fuse, place, room - used, name.baseAddress, &parameters, off_t(entry.next))
            } else {
                needed = fuse_add_direntry(fuse, nil, 0, name.baseAddress, nil, 0)
                if needed > room - used { return nil }
                var parameters = plainEntry(entry)
                fuse_add_direntry(
                    fuse, place, room - used, name.baseAddress, &parameters.attr, off_t(entry.next))
            }
            used += needed
            batch.pointee.offset += length
            batch.pointee.position = entry.next
            return entry.next
        }
    }

    /// An entry that tells number and type only, and counts nothing: the kernel asks for more when it needs it.
    private func plainEntry(_ entry: StorageDirectoryEntry) -> fuse_entry_param {
        var parameters = fuse_entry_param()
        parameters.attr.st_ino = ino_t(entry.inode)
        parameters.attr.st_mode = UInt32(entry.type) << 12
        return parameters
    }

    /// Gives back the references of entries that the kernel never asked for, and empties the batch.
    private func giveBack(_ batch: UnsafeMutablePointer<DirectoryBatch>) {
        if batch.pointee.hasEntries && mount.link.current?.number == batch.pointee.session {
            while let (entry, length) = peek(batch) {
                batch.pointee.offset += length
                if let node = entry.entry?.node, node != 0 {
                    mount.returns.forget(node, references: 1, session: batch.pointee.session)
                }
            }
        }
        batch.pointee.offset = 0
        batch.pointee.count = 0
    }

    /// Before an open directory is released.
    func dropBatch(_ file: UInt64) {
        if let batch = mount.files.existingBatch(file) { giveBack(batch) }
    }
}
