import CLinux
import Glibc
import Kernel
import Lite
import Synchronization
import Wire

/// Names, and attributes, that the kernel asks for again and again, such as those on the way to a program's libraries. What
/// it is told of them it may use for long, because a thread looks at all of them every `interval`, in one call for 64, and
/// has the kernel ask again where something has changed. So do `review` and with it the start of a program.
///
/// An answer may be on its way to the kernel while what it says changes: a notice that overtakes it would be lost, so that it
/// is given once more by the next look. That one may overtake an answer too, but of a name that is watched again by then.
///
/// Any thread. Lock order: `turn`, which is held while the component is asked and the kernel is told, then `table` or
/// `overtaken` or `KernelNotices`', which are leaves.
final class WatchedNames: Sendable {
    /// How long the kernel may use what is watched. In seconds.
    static let timeout = 300.0
    /// A little less than what others may wait to see a change (`StorageMount.attributeTimeout`).
    private static let interval: Duration = .milliseconds(900)
    /// How long a look may take before all is given up.
    private static let patience: Duration = .seconds(1)

    private let link: StorageLink
    private let inodes: InodeTable
    private let notices: KernelNotices
    private let table = Mutex(WatchedTable())
    /// Held by whoever looks at all names.
    private let turn = Mutex<Void>(())
    /// Notices to be given once more.
    private let overtaken = Mutex<[WatchedTable.Told]>([])
    private let thread = Mutex<KernelThread?>(nil)
    private let isStopping = Atomic<Bool>(false)
    /// Grows when the first name is watched, and at the end. Waited on with futex(2).
    private nonisolated(unsafe) let changes: UnsafeMutablePointer<UInt32>

    init(link: StorageLink, inodes: InodeTable, notices: KernelNotices) {
        self.link = link
        self.inodes = inodes
        self.notices = notices
        changes = .allocate(capacity: 1)
        changes.initialize(to: 0)
    }

    deinit { changes.deallocate() }

    func start() throws(KernelError) {
        let started = try KernelThread(name: "mount-review") { [self] in run() }
        thread.withLock { $0 = started }
    }

    func stop() {
        isStopping.store(true, ordering: .relaxed)
        wake()
        thread.join()
    }

    private func wake() {
        _ = lego_atomic_add_u32(changes, 1)
        Futex.wake(changes, count: .max)
    }

    /// How long the kernel may use what it is now told of a name, in seconds; nil: no longer than of others. `inode` 0: there
    /// is none. Copies the name when it is new; no system call but for the first that is watched.
    func timeout(
        parent: UInt64, name: UnsafePointer<CChar>, inode: UInt64, _ attributes: StorageAttributes
    ) -> Double? {
        let key = WatchedTable.Key(parent: parent, name: name)
        let (isWatched, isFirst) = table.withLock {
            $0.note(key, inode: inode, attributes, until: .after(.seconds(Self.timeout)))
        }
        if isFirst { wake() }
        return isWatched ? Self.timeout : nil
    }

    private func run() {
        while !isStopping.load(ordering: .relaxed) {
            let seen = lego_atomic_load_u32(changes)
            let isIdle = table.withLock { $0.watched == 0 } && overtaken.withLock { $0.isEmpty }
            // The first that is watched ends the long wait, the end either.
            Futex.wait(changes, while: seen, until: isIdle ? .never : .after(Self.interval))
            if !isStopping.load(ordering: .relaxed) { review() }
        }
    }

    /// Looks at all names. What has changed until now the kernel asks for again from then on. Any thread but the mount's
    /// own; waits for the component, up to a second. Who comes while another is at it waits for him first: what he has
    /// found changed is not watched any more, and the kernel may not know yet.
    func review() { turn.withLock { _ in reviewAll() } }

    private func reviewAll() {
        let again = overtaken.withLock { list in
            defer { list = [] }
            return list
        }
        tell(again)
        var slot = 0
        var isAnswered = true
        let deadline = Deadline.after(Self.patience)
        while let batch = table.withLock({ $0.next(&slot, StorageLimit.reviewed_max) }) {
            let states = isAnswered ? ask(batch, until: deadline) : nil
            isAnswered = states != nil
            var changed: [WatchedTable.Told] = []
            for (index, told) in batch.enumerated() where states == nil || !told.matches(states![index]) {
                changed.append(told)
            }
            withdraw(changed)
        }
    }

    /// What the names lead to; nil when the component does not say. A directory that it does not know any more has changed.
    private func ask(_ batch: [WatchedTable.Told], until deadline: Deadline) -> [StorageProcessorStates.State]? {
        guard let session = link.current else { return nil }
        let items = batch.map {
            ProcessorStorageNames.Item(parent: inodes.handle(of: $0.parent, session) ?? .max, name: $0.name)
        }
        let (status, answer) = link.node.call(
            session.peer, StorageFunction.review, ProcessorStorageNames(items: items),
            answer: StorageProcessorStates.self, until: deadline)
        guard status.isOK, let answer, answer.states.count == batch.count else { return nil }
        return answer.states
    }

    private func withdraw(_ list: [WatchedTable.Told]) {
        if list.isEmpty { return }
        table.withLock { table in
            for told in list { table.stopWatching(told) }
        }
        overtaken.withLock { $0 += list }
        tell(list)
    }

    private func tell(_ list: [WatchedTable.Told]) {
        guard !list.isEmpty, let writer = notices.open() else { return }
        for told in list {
            told.withKey { key in
                writer.expire(parent: key.parent, name: told.name.isEmpty ? nil : key.name, inode: told.inode)
            }
        }
    }
}

/// Names that were looked up, in sets of eight by their hash; those that were looked up twice while they were here are
/// watched. Not thread-safe.
struct WatchedTable: ~Copyable {
    /// A name in a directory, for the length of a call.
    struct Key: @unchecked Sendable {
        var parent: UInt64
        var name: UnsafePointer<CChar>
    }

    /// What the kernel was told of a name in `parent`. An empty name is `parent`'s own attributes.
    struct Told {
        var parent: UInt64
        var name: [UInt8]
        /// 0: there is none.
        var inode: UInt64
        var attributes: StorageAttributes

        func withKey(_ body: (Key) -> Void) {
            (name + [0]).withUnsafeBytes {
                body(Key(parent: parent, name: $0.baseAddress!.assumingMemoryBound(to: CChar.self)))
            }
        }

        func matches(_ state: StorageProcessorStates.State) -> Bool {
            inode == 0 ? state.error == UInt32(ENOENT) : state.error == 0 && state.attributes == attributes
        }
    }

    private struct Entry {
        var parent: UInt64 = 0
        /// Allocated with strdup; nil where there is no entry.
        var name: UnsafeMutablePointer<CChar>?
        var inode: UInt64 = 0
        var attributes = StorageAttributes()
        var isWatched = false
        /// Until when the kernel uses it, if it is watched.
        var until = Deadline.never
        /// When it was looked up last, in look-ups.
        var lastUse: UInt64 = 0
    }

    private static let ways = 8
    private static let sets = 32
    private let entries: UnsafeMutablePointer<Entry>
    private var uses: UInt64 = 0
    private(set) var watched = 0

    init() {
        entries = .allocate(capacity: Self.ways * Self.sets)
        entries.initialize(repeating: Entry(), count: Self.ways * Self.sets)
    }

    deinit {
        for index in 0..<Self.ways * Self.sets { free(entries[index].name) }
        entries.deallocate()
    }

    private static func set(_ key: Key) -> Int {
        // FNV-1a; the product brings every bit of it into the upper ones.
        var hash = 0xcbf2_9ce4_8422_2325 ^ key.parent &* 0x9e37_79b9_7f4a_7c15
        var next = key.name
        while next.pointee != 0 {
            hash = (hash ^ UInt64(UInt8(bitPattern: next.pointee))) &* 0x100_0000_01b3
            next += 1
        }
        return Int(truncatingIfNeeded: (hash &* 0x9e37_79b9_7f4a_7c15 >> 32) % UInt64(sets))
    }

    private func find(_ key: Key) -> UnsafeMutablePointer<Entry>? {
        let first = entries + Self.set(key) * Self.ways
        for way in 0..<Self.ways {
            let entry = first + way
            guard let known = entry.pointee.name, entry.pointee.parent == key.parent else { continue }
            if strcmp(known, key.name) == 0 { return entry }
        }
        return nil
    }

    /// The kernel is told of a name. Answers whether it is watched from now on, and whether it is the only one.
    mutating func note(
        _ key: Key, inode: UInt64, _ attributes: StorageAttributes, until: Deadline
    ) -> (isWatched: Bool, isFirst: Bool) {
        uses += 1
        if let entry = find(key) {
            if !entry.pointee.isWatched { watched += 1 }
            let isFirst = !entry.pointee.isWatched && watched == 1
            entry.pointee.isWatched = true
            entry.pointee.inode = inode
            entry.pointee.attributes = attributes
            entry.pointee.until = until
            entry.pointee.lastUse = uses
            return (true, isFirst)
        }
        guard let place = place(in: Self.set(key)) else { return (false, false) }
        free(place.pointee.name)
        place.pointee = Entry(parent: key.parent, name: strdup(key.name), inode: inode, lastUse: uses)
        return (false, false)
    }

    /// Room for a new name: that of the one whose last look-up is the longest ago, of those that are not watched.
    private func place(in set: Int) -> UnsafeMutablePointer<Entry>? {
        var oldest: UnsafeMutablePointer<Entry>?
        for way in 0..<Self.ways {
            let entry = entries + set * Self.ways + way
            if entry.pointee.name == nil { return entry }
            if entry.pointee.isWatched { continue }
            if oldest == nil || entry.pointee.lastUse < oldest!.pointee.lastUse { oldest = entry }
        }
        return oldest
    }

    /// Up to `count` of those that are watched, from `slot` on; nil at the end. What the kernel does not use any more is
    /// watched no more.
    mutating func next(_ slot: inout Int, _ count: Int) -> [Told]? {
        var list: [Told] = []
        while slot < Self.ways * Self.sets && list.count < count {
            let entry = entries + slot
            slot += 1
            guard entry.pointee.isWatched, let name = entry.pointee.name else { continue }
            if entry.pointee.until.hasPassed {
                entry.pointee.isWatched = false
                watched -= 1
                continue
            }
            list.append(
                Told(
                    parent: entry.pointee.parent,
                    name: Array(UnsafeRawBufferPointer(start: name, count: strlen(name))), inode: entry.pointee.inode,
                    attributes: entry.pointee.attributes))
        }
        return list.isEmpty ? nil : list
    }

    /// It has changed. Asked for again it is watched again.
    mutating func stopWatching(_ told: Told) {
        told.withKey { key in
            guard let entry = find(key), entry.pointee.isWatched else { return }
            entry.pointee.isWatched = false
            watched -= 1
        }
    }
}
