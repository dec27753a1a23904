import CFuse
import CLinux
import Glibc
import Kernel
import Lite
import Logging
import Synchronization
import Wire

/// Why a tree cannot be mounted. The text is one line for the operator.
public enum StorageMountError: Error, Sendable, CustomStringConvertible {
    /// /dev/fuse cannot be opened: REASON; …
    case noFuse(KernelError)
    /// PATH cannot be mounted on: REASON
    case mount(path: String, KernelError)
    /// libfuse refused the session
    case session
    /// the buffers for file data are too small: …
    case buffersTooSmall(have: Int, need: Int)
    case threads(KernelError)

    public var description: String {
        switch self {
        case .noFuse(let error):
            "/dev/fuse cannot be opened: \(error); load it with 'modprobe fuse', and run as root"
        case .mount(let path, let error): "\(path) cannot be mounted on: \(error)"
        case .session: "libfuse refused the session: see its message above"
        case .buffersTooSmall(let have, let need):
            "the buffers for file data have \(have) bytes and need \(need): some 2 MiB per thread"
        case .threads(let error): "the mount's threads cannot be started: \(error)"
        }
    }
}

/// The tree of a storage component as a directory of this host, for the programs of a processor (libfuse's low-level
/// interface).
///
/// Coherence: what another processor changed is seen at the next open (close-to-open), and names and attributes at the
/// latest after `attributeTimeout`, and after `refresh`. Locks hold among the programs of this processor.
///
/// Failure: while the component is away, requests wait for it, up to `patience` from its loss, and fail with EIO
/// afterwards. When another one comes for the same tree, everything goes on, open files too, except files that had no
/// name any more (ESTALE).
public final class StorageMount: Sendable {
    /// How long requests wait for a storage component that is away before the programs get EIO.
    static let patience: Duration = .seconds(5)
    /// How long a request may take at a component that answers (`StorageWatch`), whose disks may be slow.
    static let callTimeout: Duration = .seconds(60)
    /// How long the kernel may use names and attributes without asking, if they are not watched. In seconds.
    static let attributeTimeout = 1.0

    private struct State {
        nonisolated(unsafe) var session: OpaquePointer?
        var threads: [KernelThread] = []
        var isMounted = false
    }

    let node: RackNode
    let link: StorageLink
    let inodes = InodeTable()
    let files = OpenFileTable()
    let returns: HandleReturns
    let notices = KernelNotices()
    let recent: RecentAnswers
    let watched: WatchedNames
    let watch: StorageWatch
    let logger: Logger
    public let mountPoint: String
    /// Called with the number of a process before its core file is made.
    let coreBegins: @Sendable (Int32) -> Void
    /// Requests of the kernel so far: what programs do beyond its caches.
    public let requestCount = Atomic<Int>(0)
    /// Reads and writes that took place where the file lies (`MountThread.lentFile`), and files that are lent now.
    public let lentTransfers = Atomic<Int>(0)
    public var lentFiles: Int { files.lentCount }
    /// Threads that wait in it: one is always left to serve what that takes.
    let coresBegun = Atomic<Int>(0)
    let threadCount: Int
    private nonisolated(unsafe) let buffers: UnsafeMutableRawBufferPointer
    private let state = Mutex(State())

    /// What `threads` threads need of the node's pool, in bytes.
    public static func bufferBytes(threads: Int) -> Int { threads * MountThread.poolBytes }

    /// - Parameters:
    ///   - storage: The connected storage component of the moment, or nil while there is none. Asked at every request,
    ///     on the mount's threads. A component that is a member of the rack but whose connection is lost must be
    ///     connected again.
    ///   - buffers: Part of the node's pool, at least `bufferBytes(threads:)`, the mount's alone while it is mounted.
    ///   - mountPoint: An existing directory.
    ///   - threads: How many requests are under way at a time.
    ///   - coreBegins: Called on a mount thread when the kernel makes the core file of a process; the process waits for
    ///     it. Files of the mount may be read meanwhile.
    public init(
        node: RackNode, storage: @escaping @Sendable () -> LitePeer?, buffers: UnsafeMutableRawBufferPointer,
        mountPoint: String, threads: Int = 4, logger: Logger,
        coreBegins: @escaping @Sendable (Int32) -> Void = { _ in }
    ) throws(StorageMountError) {
        let need = Self.bufferBytes(threads: threads)
        if buffers.count < need { throw .buffersTooSmall(have: buffers.count, need: need) }
        self.node = node
        self.buffers = buffers
        self.mountPoint = mountPoint
        self.logger = logger
        self.coreBegins = coreBegins
        threadCount = threads
        link = StorageLink(node: node, storage: storage, patience: Self.patience)
        watch = StorageWatch(link: link)
        returns = HandleReturns(link: link)
        recent = RecentAnswers(notices: notices)
        watched = WatchedNames(link: link, inodes: inodes, notices: notices)
    }

    /// Mounts, in the mount namespace of the calling thread, and starts the threads. Does not wait for the storage
    /// component.
    public func mount() throws(StorageMountError) {
        let device = open("/dev/fuse", O_RDWR | O_CLOEXEC)
        if device < 0 { throw .noFuse(KernelError("open")) }
        guard let session = MountOperations.makeSession(self) else {
            close(device)
            throw .session
        }
        // Mounted here and not by libfuse, which would start helper programs. No set-user-ID and no devices: a
        // program's rights come from the processor alone.
        let options =
            "fd=\(device),rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,"
            + "max_read=\(StorageLimit.transferBytes_max)"
        let flags = UInt(MS_NOSUID) | UInt(MS_NODEV)
        let result = lego_mount("lego-storage", mountPoint, "fuse.lego", flags, options)
        if result < 0 {
            fuse_session_destroy(session)
            close(device)
            throw .mount(path: mountPoint, KernelError("mount", -result))
        }
        // From here on the session owns the descriptor.
        var transport = MountThread.transport
        if fuse_session_custom_io(session, &transport, device) != 0 {
            _ = lego_unmount(mountPoint, 1)
            fuse_session_destroy(session)
            close(device)
            throw .session
        }
        notices.begin(device)
        nonisolated(unsafe) let started = session
        state.withLock { state in
            state.session = started
            state.isMounted = true
        }
        do {
            try startThreads(started)
        } catch {
            unmount()
            throw .threads(error)
        }
        raiseReadAhead()
    }

    private func startThreads(_ session: OpaquePointer) throws(KernelError) {
        nonisolated(unsafe) let session = session
        try returns.start()
        try watch.start()
        try watched.start()
        for index in 0..<threadCount {
            let start = index * MountThread.poolBytes
            nonisolated(unsafe) let memory = UnsafeMutableRawBufferPointer(
                rebasing: buffers[start..<start + MountThread.poolBytes])
            let thread = try KernelThread(name: "mount-\(index)") { [self] in
                MountThread(mount: self, memory: memory).run(session)
            }
            state.withLock { $0.threads.append(thread) }
        }
    }

    /// Whether programs can use the mount.
    public var isMounted: Bool {
        state.withLock { state in
            guard state.isMounted, let session = state.session else { return false }
            return fuse_session_exited(session) == 0
        }
    }

    /// There may be another storage component: waiting requests ask for it now.
    public func storageChanged() { link.changed() }

    /// What others did to the tree so far is seen by whoever looks from now on. Any thread but the mount's own; a call for
    /// the names that are watched, and some microseconds for each other that was looked up within the last second.
    public func refresh() {
        watched.review()
        recent.expire()
    }

    /// Unmounts at once; what programs still have under way there ends with an error. From the mount namespace that it
    /// was mounted in. Idempotent. Waits for the threads: a request that waits for the storage component ends first.
    public func unmount() {
        let (session, threads) = state.withLock { state -> (OpaquePointer?, [KernelThread]) in
            if !state.isMounted { return (nil, []) }
            state.isMounted = false
            return (state.session, state.threads)
        }
        guard let session else { return }
        // First, as a notice may wait for a request that is under way, and those are still answered.
        watched.stop()
        link.close()
        fuse_session_exit(session)
        notices.end()
        let result = lego_unmount(mountPoint, 1)
        if result < 0 { logger.warning("\(mountPoint) was not mounted any more: \(KernelError.text(-result))") }
        for thread in threads { thread.join() }
        returns.stop()
        watch.stop()
        state.withLock { state in
            state.session = nil
            state.threads = []
        }
        fuse_session_destroy(session)
    }

    /// The kernel reads ahead 128 KiB unless it is told otherwise.
    private func raiseReadAhead() {
        guard let device = mountDevice() else { return }
        let path = "/sys/class/bdi/\(device)/read_ahead_kb"
        let file = open(path, O_WRONLY | O_CLOEXEC)
        if file < 0 {
            logger.debug("\(path): \(KernelError.text(errno)); sequential reads stay at the kernel's 128 KiB")
            return
        }
        defer { close(file) }
        let text = String(StorageLimit.transferBytes_max >> 10)
        if write(file, text, text.utf8.count) < 0 { logger.debug("\(path): \(KernelError.text(errno))") }
    }

    /// MAJOR:MINOR of the mount, from the table of mounts: stat(2) would ask the storage component.
    private func mountDevice() -> String? {
        guard let table = fopen("/proc/thread-self/mountinfo", "re") else { return nil }
        defer { fclose(table) }
        var line: UnsafeMutablePointer<CChar>?
        var capacity = 0
        defer { free(line) }
        var device: String?
        while getline(&line, &capacity, table) > 0 {
            let fields = String(cString: line!).split(separator: " ")
            // The last one on the same place is on top.
            if fields.count > 4, fields[4] == mountPoint { device = String(fields[2]) }
        }
        return device
    }
}
