import CLinux
import Glibc
import Lite
import Wire

// Handler: the entries of an open directory. On workers.
extension StorageService {
    /// More than any entry takes in an answer.
    private static let entryBytes_max = 32 + StorageEntry.encodedSize + StorageLimit.name_max

    func readDirectory(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageReadDirectory(decoding: call.request) else { return call.malformed }
        return call.withFile(message.file) { file in
            if !file.isDirectory { return call.fail(ENOTDIR) }
            if lseek(file.descriptor, off_t(message.position), SEEK_SET) < 0 { return call.fail(errno) }
            guard let staging = takeStaging() else { return CallResult(status: .busy) }
            defer { giveBack(staging) }
            var writer = WireWriter(call.response)
            // Once more when all that was read is hidden or gone: an empty answer means the end.
            while writer.count == 0 {
                // Some more names than fit in one answer; the next call begins where this answer ends.
                let count = lego_directory_read(file.descriptor, staging.baseAddress, 32 << 10)
                if count < 0 { return call.fail(Int32(count)) }
                if count == 0 { break }
                var offset = 0
                var raw = lego_directory_entry()
                while call.response.count - writer.count > Self.entryBytes_max {
                    offset = lego_directory_next(staging.baseAddress, count, offset, &raw)
                    if offset == 0 { break }
                    append(raw, message.entries, call, file, to: &writer)
                }
            }
            return CallResult(status: .ok, count: writer.count)
        }
    }

    private func append(
        _ raw: lego_directory_entry, _ isEntryWanted: Bool, _ call: StorageCall, _ file: FileUse,
        to writer: inout WireWriter
    ) {
        let name = UnsafeRawBufferPointer(start: raw.name, count: strlen(raw.name))
        var result = StorageDirectoryEntry(
            next: raw.next, inode: call.tree.inode(raw.inode, device: file.device), type: raw.type, entry: nil,
            name: name)
        var status = lego_file_status()
        // "." and ".." are the client's own business: it knows both nodes.
        let found = StorageCall.isName(name) ? find(call, file.descriptor, raw.name, &status, .mayBeBusy) : -EBUSY
        if found == -EBUSY || found == -ESTALE {
            // Nor is more said of what is being renewed: who asks for it by name finds it.
            result.entry = isEntryWanted ? StorageEntry(node: 0, attributes: StorageAttributes()) : nil
            result.encode(into: &writer)
            return
        }
        if found < 0 || call.tree.isHidden(status) { return }
        if isEntryWanted {
            guard let node = call.client.remember(parent: file.node, name: raw.name, status) else { return }
            result.entry = StorageEntry(node: node, attributes: call.attributes(status))
        }
        result.inode = call.tree.inode(status.inode, device: status.device)
        result.encode(into: &writer)
    }
}
