import CFuse
import CLinux
import Glibc
import Kernel
import Logging
import Synchronization
import Wire

/// What a program's /proc shows and the kernel of the host does not know: the names of its private file mappings
/// (`MonitorCore+Names.swift`), and a meminfo of the rack's memory. A file system of the processor (libfuse's low-level
/// interface), served by one thread that waits for nobody.
///
/// A directory for each user holds the names of the files that the user's programs have mapped, as nodes of /dev/zero:
/// a program of another user can reach none of them, and nobody can list them.
///
/// Lock order: `state` is a leaf.
final class ProcTree: Sendable {
    /// Nodes of all users; beyond, mappings have no name.
    private static let nodes_max = 1 << 16
    /// Seconds for which the kernel may use names and attributes without asking: they never change.
    private static let timeout = 1e6

    private enum Kind {
        case directory
        /// /dev/zero under a file's name.
        case zero
        case memory(MemoryFigures)
    }
    private struct Node {
        var kind: Kind
        var children: [[UInt8]: UInt64] = [:]
    }
    private struct State {
        /// By inode; 1 is the root.
        var nodes: [UInt64: Node] = [1: Node(kind: .directory)]
        var nextInode: UInt64 = 2
        /// The directory of each user, as an inode and as a descriptor that is the root of a mount of its own.
        var users: [UInt32: (inode: UInt64, descriptor: Int32)] = [:]
        nonisolated(unsafe) var session: OpaquePointer?
        var thread: KernelThread?
    }
    private let state = Mutex(State())
    let mountPoint: String
    private let logger: Logger

    /// Mounts on `mountPoint`, which is made if it is not there, in the mount namespace of the calling thread.
    init(mountPoint: String, logger: Logger) throws(KernelError) {
        self.mountPoint = mountPoint
        self.logger = logger
        if mkdir(mountPoint, 0o711) < 0, errno != EEXIST { throw KernelError("mkdir \(mountPoint)") }
        let device = Glibc.open("/dev/fuse", O_RDWR | O_CLOEXEC)
        if device < 0 { throw KernelError("open /dev/fuse") }
        guard let session = makeSession() else {
            close(device)
            throw KernelError("fuse_session_new", EINVAL)
        }
        // With devices: that is what the names are. Only root can reach it, in the daemon's own mounts.
        let options = "fd=\(device),rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
        let result = lego_mount("lego-proc", mountPoint, "fuse.lego-proc", UInt(MS_NOSUID), options)
        if result < 0 {
            fuse_session_destroy(session)
            close(device)
            throw KernelError("mount \(mountPoint)", -result)
        }
        // From here on the session owns the descriptor.
        if fuse_session_mount(session, "/dev/fd/\(device)") != 0 {
            _ = lego_unmount(mountPoint, 1)
            fuse_session_destroy(session)
            close(device)
            throw KernelError("fuse_session_mount", EINVAL)
        }
        nonisolated(unsafe) let started = session
        let thread = try KernelThread(name: "lego-proc") {
            // libfuse allocates what it receives into once, for as long as it is handed in again.
            var buffer = fuse_buf()
            defer { free(buffer.mem) }
            while fuse_session_exited(started) == 0 {
                let count = fuse_session_receive_buf(started, &buffer)
                if count > 0 { fuse_session_process_buf(started, &buffer) }
                if count <= 0 && count != -EINTR && count != -EAGAIN { return }
            }
        }
        state.withLock { state in
            state.session = started
            state.thread = thread
        }
    }

    /// Unmounts, and ends the thread. Names that are mapped stay. Idempotent.
    func stop() {
        let (session, thread, users) = state.withLock { state -> (OpaquePointer?, KernelThread?, [Int32]) in
            defer { (state.session, state.thread, state.users) = (nil, nil, [:]) }
            return (state.session, state.thread, state.users.values.map(\.descriptor))
        }
        guard let session else { return }
        for descriptor in users { close(descriptor) }
        fuse_session_exit(session)
        let result = lego_unmount(mountPoint, 1)
        if result < 0 { logger.warning("\(mountPoint) was not mounted any more: \(KernelError.text(-result))") }
        thread?.join()
        fuse_session_destroy(session)
    }

    // MARK: What programs need, any thread

    /// A user's directory of names as a descriptor that stays this object's; -1 where it cannot be had. What is opened
    /// beneath it has a path that begins there.
    func namesDirectory(of user: UInt32) -> Int32 {
        let name = "names-\(user)"
        let known = state.withLock { state -> Int32? in
            if let known = state.users[user] { return known.descriptor }
            guard let inode = Self.add(.directory, Array(name.utf8), to: 1, &state) else { return -1 }
            state.users[user] = (inode, -1)
            return nil
        }
        if let known { return known }
        // The kernel asks for the directory: not under the lock.
        let descriptor = lego_mount_clone("\(mountPoint)/\(name)")
        if descriptor < 0 {
            logger.warning("mapped files have no names: \(KernelError.text(-descriptor))")
            return -1
        }
        state.withLock { $0.users[user]?.descriptor = descriptor }
        return descriptor
    }

    /// Makes a file's path, without its first slash, known under its user. False when it cannot have a node.
    func addName(_ path: UnsafeRawBufferPointer, user: UInt32) -> Bool {
        state.withLock { state in
            guard var inode = state.users[user]?.inode else { return false }
            let parts = path.split(separator: UInt8(ascii: "/"))
            for (index, part) in parts.enumerated() {
                let isLast = index == parts.count - 1
                let name = Array(part)
                if let known = state.nodes[inode]?.children[name] {
                    inode = known
                } else if let added = Self.add(isLast ? .zero : .directory, name, to: inode, &state) {
                    inode = added
                } else {
                    return false
                }
                guard let node = state.nodes[inode] else { return false }
                // What was a file may be a directory now.
                if case .directory = node.kind { if isLast { return false } } else if !isLast { return false }
            }
            return true
        }
    }

    /// Adds a meminfo of a program; answers its path.
    func addMemory(_ figures: MemoryFigures, of program: ProgramID) -> String? {
        let name = "meminfo-\(program)"
        let inode = state.withLock { Self.add(.memory(figures), Array(name.utf8), to: 1, &$0) }
        return inode.map { _ in "\(mountPoint)/\(name)" }
    }

    /// The program has ended.
    func removeMemory(of program: ProgramID) {
        state.withLock { state in
            guard let inode = state.nodes[1]?.children.removeValue(forKey: Array("meminfo-\(program)".utf8)) else {
                return
            }
            state.nodes[inode] = nil
        }
    }

    private static func add(_ kind: Kind, _ name: [UInt8], to parent: UInt64, _ state: inout State) -> UInt64? {
        if state.nodes.count >= nodes_max || name.count > 255 { return nil }
        let inode = state.nextInode
        state.nextInode += 1
        state.nodes[inode] = Node(kind: kind)
        state.nodes[parent]?.children[name] = inode
        return inode
    }

    // MARK: What the kernel asks, on the thread

    private func makeSession() -> OpaquePointer? {
        var operations = Self.table
        var arguments: [UnsafeMutablePointer<CChar>?] = [strdup("lego-proc"), nil]
        defer { free(arguments[0]) }
        return arguments.withUnsafeMutableBufferPointer { pointers in
            var parsed = fuse_args(argc: 1, argv: pointers.baseAddress, allocated: 0)
            defer { fuse_opt_free_args(&parsed) }
            return fuse_session_new(
                &parsed, &operations, MemoryLayout<fuse_lowlevel_ops>.size, Unmanaged.passUnretained(self).toOpaque())
        }
    }

    private static let table: fuse_lowlevel_ops = {
        var table = fuse_lowlevel_ops()
        table.lookup = { of($0!).lookUp($0!, $1, $2!) }
        table.getattr = { request, inode, _ in of(request!).getAttributes(request!, inode) }
        table.open = { of($0!).open($0!, $1, $2!) }
        table.read = { request, inode, count, offset, _ in of(request!).read(request!, inode, count, offset) }
        return table
    }()

    private static func of(_ request: OpaquePointer) -> ProcTree {
        Unmanaged<ProcTree>.fromOpaque(fuse_req_userdata(request)).takeUnretainedValue()
    }

    private func attributes(of inode: UInt64) -> stat? {
        guard let kind = state.withLock({ $0.nodes[inode]?.kind }) else { return nil }
        var status = stat()
        status.st_ino = UInt(inode)
        status.st_nlink = 1
        switch kind {
        case .directory: status.st_mode = S_IFDIR | 0o711
        case .zero:
            status.st_mode = S_IFCHR | 0o444
            status.st_rdev = 1 << 8 | 5
            // userfaultfd(2) fills no page beyond the end of what is mapped.
            status.st_size = 1 << 60
        case .memory: status.st_mode = S_IFREG | 0o444
        }
        return status
    }

    private func lookUp(_ request: OpaquePointer, _ parent: UInt64, _ name: UnsafePointer<CChar>) {
        let bytes = Array(UnsafeRawBufferPointer(start: name, count: strlen(name)))
        let inode = state.withLock { $0.nodes[parent]?.children[bytes] }
        guard let inode, let status = attributes(of: inode) else {
            // Not remembered: the name may come to be.
            fuse_reply_err(request, ENOENT)
            return
        }
        var entry = fuse_entry_param()
        entry.ino = inode
        entry.attr = status
        entry.attr_timeout = Self.timeout
        entry.entry_timeout = Self.timeout
        fuse_reply_entry(request, &entry)
    }

    private func getAttributes(_ request: OpaquePointer, _ inode: UInt64) {
        guard var status = attributes(of: inode) else {
            fuse_reply_err(request, ENOENT)
            return
        }
        fuse_reply_attr(request, &status, Self.timeout)
    }

    private func open(_ request: OpaquePointer, _ inode: UInt64, _ file: UnsafeMutablePointer<fuse_file_info>) {
        if file.pointee.flags & O_ACCMODE != O_RDONLY {
            fuse_reply_err(request, EACCES)
            return
        }
        // Of the moment, each time.
        file.pointee.direct_io = 1
        fuse_reply_open(request, file)
    }

    private func read(_ request: OpaquePointer, _ inode: UInt64, _ count: Int, _ offset: off_t) {
        guard case .memory(let figures) = state.withLock({ $0.nodes[inode]?.kind }) else {
            fuse_reply_err(request, EIO)
            return
        }
        let text = Array(figures.text.utf8)
        let start = min(text.count, max(0, Int(clamping: offset)))
        let part = Array(text[start..<min(text.count, start + count)])
        part.withUnsafeBytes { bytes in
            _ = fuse_reply_buf(request, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), bytes.count)
        }
    }
}
