import CLinux
import Glibc
import Lite
import Wire

// Handlers: attributes of nodes, extended attributes, the file system. On workers.
extension StorageService {
    func forget(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageForget(decoding: call.request) else { return call.malformed }
        for file in message.files { call.client.release(file) }
        for item in message.items { call.client.forget(item.node, references: item.references) }
        return call.done
    }

    func getAttributes(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageNode(decoding: call.request) else { return call.malformed }
        return call.withNode(message.node) { answerAttributes(call, $0) }
    }

    private func answerAttributes(_ call: StorageCall, _ node: NodeUse) -> CallResult {
        var status = lego_file_status()
        let result = lego_file_status(node.descriptor, "", &status)
        if result < 0 { return call.fail(result) }
        call.client.refresh(node, status)
        return call.answer(call.attributes(status))
    }

    func setAttributes(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageSetAttributes(decoding: call.request) else { return call.malformed }
        let fields = message.fields
        return call.withNode(message.node) { node in
            // The owner first: changing it clears set-user-ID, which the mode may then set again.
            if !fields.isDisjoint(with: [.user, .group]) {
                let user = fields.contains(.user) ? message.user : .max
                let group = fields.contains(.group) ? message.group : .max
                let result = lego_file_change_owner(node.descriptor, user, group)
                if result < 0 { return call.fail(result) }
            }
            if fields.contains(.mode) {
                if node.type == UInt32(S_IFLNK) { return call.fail(EOPNOTSUPP) }
                let result = lego_file_change_mode(node.descriptor, message.mode)
                if result < 0 { return call.fail(result) }
            }
            if fields.contains(.size) {
                if node.type != UInt32(S_IFREG) { return call.fail(EINVAL) }
                var result = lego_file_truncate(node.descriptor, message.size)
                if result == 0 && fields.contains(.clearsSetID) { result = lego_file_clear_set_id(node.descriptor) }
                if result < 0 { return call.fail(result) }
            }
            if !fields.isDisjoint(with: [.accessTime, .accessTimeNow, .modifyTime, .modifyTimeNow]) {
                let result = setTimes(message, node)
                if result < 0 { return call.fail(result) }
            }
            return answerAttributes(call, node)
        }
    }

    private func setTimes(_ message: ProcessorStorageSetAttributes, _ node: NodeUse) -> Int32 {
        let now: UInt32 = (1 << 30) - 1  // UTIME_NOW
        let omit: UInt32 = (1 << 30) - 2  // UTIME_OMIT
        let fields = message.fields
        let access =
            fields.contains(.accessTimeNow) ? now : fields.contains(.accessTime) ? message.accessNanoseconds : omit
        let modify =
            fields.contains(.modifyTimeNow) ? now : fields.contains(.modifyTime) ? message.modifyNanoseconds : omit
        return lego_file_set_times(node.descriptor, message.accessSeconds, access, message.modifySeconds, modify)
    }

    func readLink(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageNode(decoding: call.request) else { return call.malformed }
        return call.withNode(message.node) { node in
            if node.type != UInt32(S_IFLNK) { return call.fail(EINVAL) }
            let target = call.response.assumingMemoryBound(to: CChar.self)
            let count = readlinkat(node.descriptor, "", target.baseAddress!, target.count)
            if count < 0 { return call.fail(errno) }
            if count > StorageLimit.target_max { return call.fail(ENAMETOOLONG) }
            return CallResult(status: .ok, count: count)
        }
    }

    func fileSystemStatus(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageNode(decoding: call.request) else { return call.malformed }
        return call.withNode(message.node) { node in
            var status = lego_file_system_status()
            let result = lego_file_system_status(node.descriptor, &status)
            if result < 0 { return call.fail(result) }
            var answer = StorageFileSystemStatus()
            answer.blockBytes = status.block_bytes
            answer.blocks = status.blocks
            answer.blocksFree = status.blocks_free
            answer.blocksAvailable = status.blocks_available
            answer.inodes = status.inodes
            answer.inodesFree = status.inodes_free
            return call.answer(answer)
        }
    }

    // Extended attributes: the users' own, and the capabilities of a file, which the program's kernel reads at exec and
    // removes when the file is written. What the trusted and system name spaces hold is the storage host's own
    // business.

    private enum Attribute { case user, capability, other }

    private func kind(_ name: UnsafePointer<CChar>) -> Attribute {
        if strncmp(name, "user.", 5) == 0 { return .user }
        return strcmp(name, "security.capability") == 0 ? .capability : .other
    }

    func getExtended(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageExtended(decoding: call.request) else { return call.malformed }
        return call.withName(message.name) { name in
            if kind(name) == .other { return call.fail(EOPNOTSUPP) }
            return call.withNode(message.node) { node in
                let count = lego_attribute_get(node.descriptor, name, call.response.baseAddress, call.response.count)
                return count < 0 ? call.fail(Int32(count)) : CallResult(status: .ok, count: count)
            }
        }
    }

    func listExtended(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageNode(decoding: call.request) else { return call.malformed }
        return call.withNode(message.node) { node in
            let names = call.response
            let count = lego_attribute_list(node.descriptor, names.baseAddress, names.count)
            if count < 0 { return call.fail(Int32(count)) }
            // The names that programs may see move up to the front.
            var (from, to) = (0, 0)
            while from < count {
                let name = names.baseAddress! + from
                let length = strnlen(name.assumingMemoryBound(to: CChar.self), count - from) + 1
                if from + length > count { break }
                if kind(name.assumingMemoryBound(to: CChar.self)) != .other {
                    memmove(names.baseAddress! + to, name, length)
                    to += length
                }
                from += length
            }
            return CallResult(status: .ok, count: to)
        }
    }

    func setExtended(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageExtended(decoding: call.request) else { return call.malformed }
        return call.withName(message.name) { name in
            switch kind(name) {
            case .other: return call.fail(EOPNOTSUPP)
            case .capability: return call.fail(EPERM)
            case .user: break
            }
            return call.withNode(message.node) { node in
                call.answer(
                    lego_attribute_set(
                        node.descriptor, name, message.value.baseAddress, message.value.count,
                        Int32(truncatingIfNeeded: message.flags)))
            }
        }
    }

    func removeExtended(_ call: StorageCall) -> CallResult {
        guard let message = ProcessorStorageExtended(decoding: call.request) else { return call.malformed }
        return call.withName(message.name) { name in
            if kind(name) == .other { return call.fail(EOPNOTSUPP) }
            return call.withNode(message.node) { call.answer(lego_attribute_remove($0.descriptor, name)) }
        }
    }
}
