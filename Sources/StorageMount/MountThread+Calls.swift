import Glibc
import Kernel
import Lite
import Wire

/// How a call to the storage component ended. `error` is 0 or an error number for the program.
struct StorageReply {
    var error: Int32
    /// Bytes in the thread's `response`.
    var count = 0
    /// The session that answered.
    var session: UInt32 = 0
}

/// What becomes of a call whose answer is lost.
enum CallKind {
    /// Done again in the next session.
    case repeatable
    /// Perhaps done already: the program gets EIO.
    case once
    /// Repeatable, and the storage component accesses this thread's buffers: a late one is fenced off before they are
    /// used again.
    case transfer
    /// A transfer that must not be done twice.
    case appending

    var isRepeatable: Bool { self == .repeatable || self == .transfer }
    var isTransfer: Bool { self == .transfer || self == .appending }
}

extension MountThread {
    /// Calls the storage component, and again after a restart. `prepare` writes the request for a session, and answers
    /// its length or a negative error number; it may itself make calls before it writes.
    func perform(
        _ function: FunctionID, _ kind: CallKind = .repeatable, _ prepare: (StorageSession) -> Int
    ) -> StorageReply {
        mount.watch.begin()
        defer { mount.watch.end() }
        let deadline = Deadline.after(StorageMount.callTimeout)
        while let session = mount.link.session(until: deadline) {
            preparation = .ok
            let count = prepare(session)
            if count < 0 {
                // Nothing of the request itself was sent yet: any may be prepared again in the next session.
                if preparation == .peerLost {
                    mount.link.lost(session)
                    continue
                }
                return StorageReply(error: preparation == .timedOut ? EIO : Int32(-count))
            }
            let result = node.call(
                session.peer, function, request: UnsafeRawBufferPointer(rebasing: request[..<count]),
                response: response, until: deadline)
            if result.status.isOK {
                return StorageReply(error: 0, count: result.count, session: session.number)
            }
            if let number = result.status.errorNumber { return StorageReply(error: number, session: session.number) }
            switch result.status {
            case .peerLost:
                mount.link.lost(session)
                if !kind.isRepeatable { return StorageReply(error: EIO) }
            case .busy:
                // Not begun: its queue is full for the moment.
                if deadline.hasPassed { return StorageReply(error: EIO) }
                sched_yield()
            case .timedOut:
                if kind.isTransfer { mount.link.fence(session) }
                return StorageReply(error: EIO)
            default:
                return StorageReply(error: EIO)
            }
        }
        return StorageReply(error: EIO)
    }

    /// Encodes a request; -EINVAL when it does not fit.
    func encode(_ message: some WireMessage) -> Int {
        message.encode(into: request) ?? Int(-EINVAL)
    }

    /// The answer as a message; nil for one that does not decode.
    func decode<Message: WireMessage>(_ reply: StorageReply, as type: Message.Type = Message.self) -> Message? {
        Message(decoding: UnsafeRawBufferPointer(rebasing: response[..<reply.count]))
    }

    /// The storage component's handle of an inode in `session`, found again by name when it has none there; nil when
    /// the inode is not there any more. May call.
    func handle(_ number: UInt64, _ session: StorageSession, depth: Int = 0) -> UInt64? {
        if number == InodeTable.root { return session.root }
        return withUnsafeTemporaryAllocation(of: CChar.self, capacity: Int(NAME_MAX) + 1) { name -> UInt64? in
            guard let place = mount.inodes.locate(number, session: session.number, name: name.baseAddress!) else {
                return nil
            }
            if let handle = place.handle { return handle }
            // Each level takes stack, and a program can make a tree as deep as it likes.
            guard depth < 1024, let parent = handle(place.inode.parent, session, depth: depth + 1) else { return nil }
            let bytes = UnsafeRawBufferPointer(start: name.baseAddress!, count: strlen(name.baseAddress!))
            let message = ProcessorStorageName(parent: parent, name: bytes)
            guard let reply = prepare(StorageFunction.lookUpOpen, message, session),
                let entry: StorageEntry = decode(reply)
            else { return nil }
            if place.inode.isSame(entry.attributes),
                mount.inodes.relocated(number, entry, session: session.number)
            {
                return entry.node
            }
            mount.returns.forget(entry.node, references: 1, session: session.number)
            return nil
        }
    }

    /// A call that prepares another one; nil when it fails, in `preparation` why.
    private func prepare(
        _ function: FunctionID, _ message: some WireMessage, _ session: StorageSession
    ) -> StorageReply? {
        let count = encode(message)
        if count < 0 { return nil }
        let result = node.call(
            session.peer, function, request: UnsafeRawBufferPointer(rebasing: request[..<count]), response: response,
            until: .after(StorageMount.callTimeout))
        preparation = result.status
        return result.status.isOK ? StorageReply(error: 0, count: result.count, session: session.number) : nil
    }

    /// The storage component's handle of an open file in `session`; opened again when it has none there. May call.
    func fileHandle(_ file: UInt64, _ session: StorageSession) -> UInt64? {
        guard let known = mount.files.find(file) else { return nil }
        if known.session == session.number { return known.handle }
        guard let inode = handle(known.inode, session) else { return nil }
        let flags = known.flags & ~UInt32(O_TRUNC | O_CREAT | O_EXCL)
        guard let reply = prepare(StorageFunction.open, ProcessorStorageOpen(node: inode, flags: flags), session),
            let opened: StorageProcessorOpened = decode(reply)
        else { return nil }
        if mount.files.reopened(file, handle: opened.file, session: session.number) { return opened.file }
        // Another thread was faster.
        mount.returns.release(opened.file, session: session.number)
        guard let current = mount.files.find(file), current.session == session.number else { return nil }
        return current.handle
    }
}
