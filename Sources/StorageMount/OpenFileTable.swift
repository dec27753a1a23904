import Glibc
import Kernel
import Synchronization

/// What has been read of an open directory ahead of the kernel's questions. Owned by the request that reads the
/// directory: the kernel sends one at a time for an open directory.
struct DirectoryBatch: BitwiseCopyable {
    /// `StorageLimit.answerBytes_max` bytes, allocated at the first read.
    var bytes: UnsafeMutableRawPointer?
    var count = 0
    /// The first byte that is not delivered yet, and its position in the directory.
    var offset = 0
    var position: Int64 = 0
    /// Whether it holds entries, and in which session the storage component counted them.
    var hasEntries = false
    var session: UInt32 = 0
}

/// The files and directories that programs have open, by the handles that the kernel keeps for us. They outlive a
/// restart of the storage component. Any thread; one lock, never held over a call.
final class OpenFileTable: Sendable {
    struct OpenFile: BitwiseCopyable {
        var inode: UInt64
        /// Of open(2), as the storage component gets them.
        var flags: UInt32
        /// The storage component's handle, and the session in which it was given.
        var handle: UInt64
        var session: UInt32
        var batch: UnsafeMutablePointer<DirectoryBatch>?
        /// Requests to read or write it so far.
        var transfers: UInt32 = 0
        /// This process's descriptor of the same open file, -1 when there is none, and the session in which it was lent.
        var lent: Int32 = -1
        var lentSession: UInt32 = 0
    }

    /// An open file as a transfer finds it.
    struct TransferUse {
        /// The storage component's handle, and the session in which it was given.
        var handle: UInt64
        var session: UInt32
        /// The descriptor that was lent in this session; -1 without one.
        var lent: Int32
        /// Counted from 1.
        var transfers: UInt32
    }

    private struct State: ~Copyable {
        var table: SlotTable<OpenFile>
        /// Files with a descriptor that is lent.
        var lent = 0
    }
    private let lock = Mutex<Void>(())
    /// Guarded by `lock`.
    private nonisolated(unsafe) let state: UnsafeMutablePointer<State>

    init() {
        let blank = OpenFile(inode: 0, flags: 0, handle: 0, session: 0)
        state = .allocate(capacity: 1)
        state.initialize(to: State(table: SlotTable(capacity_max: 1 << 20, blank: blank)))
    }

    deinit {
        state.pointee.table.forEach { _, file in
            Self.free(file.pointee.batch)
            if file.pointee.lent >= 0 { close(file.pointee.lent) }
        }
        state.deinitialize(count: 1)
        state.deallocate()
    }

    private func locked<Result: Sendable>(_ body: (inout State) -> Result) -> Result {
        lock.withLock { _ in body(&state.pointee) }
    }

    /// nil when the table is full.
    func insert(_ file: OpenFile) -> UInt64? {
        nonisolated(unsafe) let file = file
        return locked { $0.table.insert(file) }
    }

    /// What is known of an open file; nil for a handle that is not in use.
    func find(_ handle: UInt64) -> (inode: UInt64, flags: UInt32, handle: UInt64, session: UInt32)? {
        locked { state in
            guard let file = state.table.pointer(handle) else { return nil }
            return (file.pointee.inode, file.pointee.flags, file.pointee.handle, file.pointee.session)
        }
    }

    /// Counts a transfer; nil for a handle that is not in use. What is lent stays open until the file is removed: the
    /// kernel releases a file when nothing is under way with it.
    func beginTransfer(_ handle: UInt64) -> TransferUse? {
        locked { state in
            guard let file = state.table.pointer(handle) else { return nil }
            file.pointee.transfers &+= 1
            let isCurrent = file.pointee.lentSession == file.pointee.session
            return TransferUse(
                handle: file.pointee.handle, session: file.pointee.session, lent: isCurrent ? file.pointee.lent : -1,
                transfers: file.pointee.transfers)
        }
    }

    /// Takes in a descriptor that was lent; false, and it is the caller's, when the file has had one, or as many are lent as
    /// may be.
    func lend(_ handle: UInt64, _ descriptor: Int32, session: UInt32) -> Bool {
        locked { state in
            guard let file = state.table.pointer(handle), file.pointee.lent < 0, state.lent < Self.lent_max else {
                return false
            }
            file.pointee.lent = descriptor
            file.pointee.lentSession = session
            state.lent += 1
            return true
        }
    }

    /// How many files are lent at this moment.
    var lentCount: Int { locked { $0.lent } }

    /// Of a process's descriptors, of which there may be no more than a thousand, a part.
    private static let lent_max = 256

    /// The file was opened again in a new session. Answers whether `handle` is now the file's.
    func reopened(_ file: UInt64, handle: UInt64, session: UInt32) -> Bool {
        locked { state in
            guard let file = state.table.pointer(file), file.pointee.session != session else { return false }
            file.pointee.handle = handle
            file.pointee.session = session
            return true
        }
    }

    /// The batch of an open directory, made at the first call; nil for a handle that is not in use.
    func batch(_ handle: UInt64) -> UnsafeMutablePointer<DirectoryBatch>? {
        nonisolated(unsafe) var batch: UnsafeMutablePointer<DirectoryBatch>?
        locked { state in
            guard let file = state.table.pointer(handle) else { return }
            if file.pointee.batch == nil {
                let fresh = UnsafeMutablePointer<DirectoryBatch>.allocate(capacity: 1)
                fresh.initialize(to: DirectoryBatch())
                file.pointee.batch = fresh
            }
            batch = file.pointee.batch
        }
        return batch
    }

    /// The batch of an open directory that was read.
    func existingBatch(_ handle: UInt64) -> UnsafeMutablePointer<DirectoryBatch>? {
        nonisolated(unsafe) var batch: UnsafeMutablePointer<DirectoryBatch>?
        locked { batch = $0.table.pointer(handle)?.pointee.batch }
        return batch
    }

    func remove(_ handle: UInt64) {
        let lent = locked { state -> Int32 in
            guard let file = state.table.pointer(handle) else { return -1 }
            let lent = file.pointee.lent
            if lent >= 0 { state.lent -= 1 }
            Self.free(file.pointee.batch)
            state.table.remove(handle)
            return lent
        }
        if lent >= 0 { close(lent) }
    }

    private static func free(_ batch: UnsafeMutablePointer<DirectoryBatch>?) {
        batch?.pointee.bytes?.deallocate()
        batch?.deallocate()
    }
}
