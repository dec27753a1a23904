import Glibc
import Kernel
import Synchronization
import Wire

/// A file's contents as of an open: when nothing of it has changed, the kernel's cached pages are still good
/// (close-to-open).
struct DataStamp: BitwiseCopyable, Equatable {
    var size: UInt64 = 0
    var modifySeconds: Int64 = 0
    var changeSeconds: Int64 = 0
    var modifyNanoseconds: UInt32 = 0
    var changeNanoseconds: UInt32 = 0

    init() {}
    init(_ attributes: StorageAttributes) {
        size = attributes.size
        modifySeconds = attributes.modifySeconds
        changeSeconds = attributes.changeSeconds
        modifyNanoseconds = attributes.modifyNanoseconds
        changeNanoseconds = attributes.changeNanoseconds
    }
}

/// The inodes that the kernel knows, by the numbers that it knows them by, and for each where it is in the tree and the
/// storage component's handle of it. Numbers outlive a restart of the storage component; handles are found again by
/// parent and name.
///
/// Any thread; one lock, innermost, never held over a call.
final class InodeTable: Sendable {
    struct Inode: BitwiseCopyable {
        /// The storage component's handle, and the session in which it was given.
        var handle: UInt64 = 0
        var session: UInt32 = 0
        /// References that the storage component has counted in that session.
        var references: UInt64 = 0
        /// The inode number that programs see.
        var number: UInt64 = 0
        /// Of a regular file, when its inode was made (`StorageAttributes.birth`); 0 for others.
        var birth: UInt64 = 0
        /// S_IFMT of its mode.
        var type: UInt32 = 0
        /// The kernel's references.
        var lookups: UInt64 = 0
        /// 0 for an inode without a name.
        var parent: UInt64 = 0
        /// Allocated with strdup; nil for an inode without a name.
        var name: UnsafeMutablePointer<CChar>?
        /// Inodes of which this is the parent.
        var children: UInt32 = 0
        var hasStamp = false
        var stamp = DataStamp()
        /// Until when (monotonic nanoseconds) it is taken to have no capabilities: the kernel asks before every write.
        var plainUntil: UInt64 = 0
    }

    fileprivate struct State: ~Copyable {
        var table: SlotTable<Inode>
        var byNumber: [UInt64: UInt64] = [:]
    }

    /// The number of the root, by the protocol's definition.
    static let root: UInt64 = 1

    private let lock = Mutex<Void>(())
    /// Guarded by `lock`.
    private nonisolated(unsafe) let state: UnsafeMutablePointer<State>

    init() {
        state = .allocate(capacity: 1)
        state.initialize(to: State(table: SlotTable(capacity_max: 16 << 20, blank: Inode())))
    }

    deinit {
        state.pointee.table.forEach { _, inode in free(inode.pointee.name) }
        state.deinitialize(count: 1)
        state.deallocate()
    }

    private func locked<Result: Sendable>(_ body: (inout State) -> Result) -> Result {
        lock.withLock { _ in body(&state.pointee) }
    }

    /// Takes in an entry that was looked up in `parent` and counts the kernel's reference; answers its number, or nil
    /// when the table is full.
    func remember(_ entry: StorageEntry, session: UInt32, parent: UInt64, name: UnsafePointer<CChar>) -> UInt64? {
        let type = entry.attributes.mode & UInt32(S_IFMT)
        return locked { state -> UInt64? in
            if let known = state.byNumber[entry.attributes.inode], let inode = state.table.pointer(known),
                inode.pointee.session == session
                    ? inode.pointee.handle == entry.node && inode.pointee.type == type
                    : inode.pointee.isSame(entry.attributes)
            {
                inode.pointee.setBirth(entry.attributes)
                if inode.pointee.session == session {
                    inode.pointee.references += 1
                } else {
                    inode.pointee.session = session
                    inode.pointee.handle = entry.node
                    inode.pointee.references = 1
                }
                inode.pointee.lookups += 1
                state.rename(known, parent, name)
                return known
            }
            // A number that the file system gave to another file, or a node that the storage component counts anew.
            var inode = Inode(
                handle: entry.node, session: session, references: 1, number: entry.attributes.inode, type: type,
                lookups: 1)
            inode.setBirth(entry.attributes)
            guard let number = state.table.insert(inode) else { return nil }
            state.byNumber[entry.attributes.inode] = number
            state.rename(number, parent, name)
            return number
        }
    }

    /// Takes back the kernel's references. Answers the handles of `session` that the storage component may forget: of
    /// this inode and of its ancestors, where nothing else needs them.
    func forget(_ number: UInt64, lookups: UInt64, session: UInt32) -> [ProcessorStorageForget.Item] {
        locked { state in
            var released: [ProcessorStorageForget.Item] = []
            guard let inode = state.table.pointer(number) else { return released }
            inode.pointee.lookups -= min(lookups, inode.pointee.lookups)
            var current = number
            while let inode = state.table.pointer(current), inode.pointee.lookups == 0, inode.pointee.children == 0 {
                if inode.pointee.session == session {
                    released.append(.init(node: inode.pointee.handle, references: inode.pointee.references))
                }
                if state.byNumber[inode.pointee.number] == current { state.byNumber[inode.pointee.number] = nil }
                let parent = state.takeName(current)
                state.table.remove(current)
                current = parent
            }
            return released
        }
    }

    /// Where an inode is to be found: its handle when it has one in `session`, else its parent, with its name copied to
    /// `name` (room for NAME_MAX + 1). nil when it has neither.
    func locate(
        _ number: UInt64, session: UInt32, name: UnsafeMutablePointer<CChar>
    ) -> (handle: UInt64?, inode: Inode)? {
        nonisolated(unsafe) var found: Inode?
        locked { state in
            guard let inode = state.table.pointer(number) else { return }
            if inode.pointee.session != session {
                guard let known = inode.pointee.name else { return }
                strcpy(name, known)
            }
            found = inode.pointee
        }
        guard let found else { return nil }
        return (found.session == session ? found.handle : nil, found)
    }

    /// The handle of an inode in a session, if it has one there.
    func handle(of number: UInt64, _ session: StorageSession) -> UInt64? {
        if number == Self.root { return session.root }
        return locked { state in
            guard let inode = state.table.pointer(number), inode.pointee.session == session.number else { return nil }
            return inode.pointee.handle
        }
    }

    /// The inode was found again in a new session. Answers whether the entry's reference is now the inode's.
    func relocated(_ number: UInt64, _ entry: StorageEntry, session: UInt32) -> Bool {
        locked { state in
            guard let inode = state.table.pointer(number) else { return false }
            if inode.pointee.session == session {
                if inode.pointee.handle != entry.node { return false }
                inode.pointee.references += 1
            } else {
                inode.pointee.session = session
                inode.pointee.handle = entry.node
                inode.pointee.references = 1
            }
            return true
        }
    }

    /// A name was removed from `parent`.
    func removed(inode: UInt64, parent: UInt64, name: UnsafePointer<CChar>) {
        locked { state in
            guard let number = state.byNumber[inode], let inode = state.table.pointer(number),
                inode.pointee.parent == parent, let known = inode.pointee.name, strcmp(known, name) == 0
            else { return }
            _ = state.takeName(number)
        }
    }

    /// An inode has another name.
    func moved(inode: UInt64, parent: UInt64, name: UnsafePointer<CChar>) {
        locked { state in
            guard let number = state.byNumber[inode] else { return }
            state.rename(number, parent, name)
        }
    }

    /// Notes what a file's data is as of this open; answers whether it is what it was at the last one.
    func stamp(_ number: UInt64, _ attributes: StorageAttributes) -> Bool {
        let stamp = DataStamp(attributes)
        return locked { state in
            guard let inode = state.table.pointer(number) else { return false }
            let isUnchanged = inode.pointee.hasStamp && inode.pointee.stamp == stamp
            inode.pointee.hasStamp = true
            inode.pointee.setBirth(attributes)
            inode.pointee.stamp = stamp
            return isUnchanged
        }
    }

    /// Notes what an inode is known by, from attributes that its handle led to: an overlay makes an inode anew when it
    /// is changed first.
    func refresh(_ number: UInt64, _ attributes: StorageAttributes) {
        locked { $0.table.pointer(number)?.pointee.setBirth(attributes) }
    }

    func isPlain(_ number: UInt64) -> Bool {
        let until = locked { $0.table.pointer(number)?.pointee.plainUntil ?? 0 }
        return until != 0 && monotonicNanoseconds() < until
    }

    func setPlain(_ number: UInt64, for duration: Duration) {
        let until = Deadline.after(duration).nanoseconds
        locked { $0.table.pointer(number)?.pointee.plainUntil = until }
    }

    /// Inodes that the kernel knows, beside the root.
    var count: Int { locked { $0.table.count } }
}

extension InodeTable.Inode {
    mutating func setBirth(_ attributes: StorageAttributes) {
        birth = type == UInt32(S_IFREG) ? attributes.birth : 0
    }

    /// Whether the attributes, of another session, are this inode's, and not those of one that got its number later.
    func isSame(_ attributes: StorageAttributes) -> Bool {
        number == attributes.inode && type == attributes.mode & UInt32(S_IFMT)
            && (birth == 0 || birth == attributes.birth)
    }
}

// What follows runs with the table's lock held.
extension InodeTable.State {
    fileprivate mutating func rename(_ number: UInt64, _ parent: UInt64, _ name: UnsafePointer<CChar>) {
        guard let inode = table.pointer(number) else { return }
        if inode.pointee.parent == parent, let known = inode.pointee.name, strcmp(known, name) == 0 { return }
        if inode.pointee.children > 0 && isRing(number, parent) { return }
        // Counted first, so that a parent that stays the same is never without a child.
        table.pointer(parent)?.pointee.children += 1
        _ = takeName(number)
        inode.pointee.parent = parent
        inode.pointee.name = strdup(name)
    }

    /// Whether `number` is among the ancestors of `parent`: others moved directories about, and what is known is out of
    /// date.
    private func isRing(_ number: UInt64, _ parent: UInt64) -> Bool {
        var walk = parent
        while walk != InodeTable.root, let inode = table.pointer(walk) {
            if walk == number { return true }
            walk = inode.pointee.parent
        }
        return false
    }

    /// Takes an inode's name away; answers its former parent, which has a child less, or 0.
    fileprivate mutating func takeName(_ number: UInt64) -> UInt64 {
        guard let inode = table.pointer(number), let name = inode.pointee.name else { return 0 }
        free(name)
        inode.pointee.name = nil
        let parent = inode.pointee.parent
        inode.pointee.parent = 0
        table.pointer(parent)?.pointee.children -= 1
        return parent
    }
}
