import CFuse
import Glibc
import Wire

/// The table of operations that libfuse calls, and the session's terms. Every operation runs on a `MountThread` and
/// answers its request exactly once.
enum MountOperations {
    /// A session for `mount`, not mounted yet; nil when libfuse refuses it.
    static func makeSession(_ mount: StorageMount) -> OpaquePointer? {
        var operations = table
        var arguments: [UnsafeMutablePointer<CChar>?] = [
            strdup("lego"), strdup("-o"), strdup("max_read=\(StorageLimit.transferBytes_max)"), nil,
        ]
        defer { for argument in arguments { free(argument) } }
        return arguments.withUnsafeMutableBufferPointer { pointers in
            var parsed = fuse_args(argc: 3, argv: pointers.baseAddress, allocated: 0)
            defer { fuse_opt_free_args(&parsed) }
            return fuse_session_new(&parsed, &operations, MemoryLayout<fuse_lowlevel_ops>.size, nil)
        }
    }

    private static func negotiate(_ connection: UnsafeMutablePointer<fuse_conn_info>) {
        let bytes = UInt32(StorageLimit.transferBytes_max)
        connection.pointee.max_write = bytes
        connection.pointee.max_read = bytes
        connection.pointee.max_readahead = bytes
        connection.pointee.max_background = 32
        connection.pointee.congestion_threshold = 24
        func flag(_ value: Int32) -> UInt32 { UInt32(bitPattern: value) }
        var want = connection.pointee.want
        want |= flag(FUSE_CAP_ASYNC_READ) | flag(FUSE_CAP_PARALLEL_DIROPS) | flag(FUSE_CAP_AUTO_INVAL_DATA)
        want |= flag(FUSE_CAP_READDIRPLUS) | flag(FUSE_CAP_READDIRPLUS_AUTO) | flag(FUSE_CAP_CACHE_SYMLINKS)
        want |= flag(FUSE_CAP_ATOMIC_O_TRUNC)
        // The thread's buffers are registered memory: splicing would bypass them. Locks are the processor's own.
        // Set-user-ID is cleared by the storage component when the kernel says so, which knows who writes; how the two
        // agree upon that is not libfuse's business (`MountThread.transport`).
        want &= ~(flag(FUSE_CAP_SPLICE_READ) | flag(FUSE_CAP_SPLICE_WRITE) | flag(FUSE_CAP_SPLICE_MOVE))
        want &= ~(flag(FUSE_CAP_POSIX_LOCKS) | flag(FUSE_CAP_FLOCK_LOCKS))
        want &= ~(flag(FUSE_CAP_HANDLE_KILLPRIV) | flag(FUSE_CAP_WRITEBACK_CACHE))
        connection.pointee.want = want & connection.pointee.capable
    }

    private static let table: fuse_lowlevel_ops = {
        var table = fuse_lowlevel_ops()
        table.`init` = { _, connection in negotiate(connection!) }
        addNames(&table)
        addNodes(&table)
        addFiles(&table)
        addDirectories(&table)
        return table
    }()

    private static func addNames(_ table: inout fuse_lowlevel_ops) {
        table.lookup = { MountThread.current.lookUp($0!, $1, $2!) }
        table.forget = { MountThread.current.forget($0!, $1, $2) }
        table.forget_multi = { MountThread.current.forget($0!, UnsafeBufferPointer(start: $2, count: $1)) }
        table.mknod = { MountThread.current.make($0!, $1, $2!, mode: $3, special: UInt32(truncatingIfNeeded: $4)) }
        table.mkdir = { MountThread.current.make($0!, $1, $2!, mode: $3 & 0o7777 | S_IFDIR) }
        table.symlink = { MountThread.current.make($0!, $2, $3!, mode: S_IFLNK | 0o777, target: $1) }
        table.link = { MountThread.current.link($0!, $1, $2, $3!) }
        table.unlink = { MountThread.current.remove($0!, $1, $2!, StorageFunction.unlink) }
        table.rmdir = { MountThread.current.remove($0!, $1, $2!, StorageFunction.removeDirectory) }
        table.rename = { MountThread.current.rename($0!, $1, $2!, $3, $4!, $5) }
        table.create = { MountThread.current.create($0!, $1, $2!, $3, $4!) }
    }

    private static func addNodes(_ table: inout fuse_lowlevel_ops) {
        table.getattr = { request, inode, _ in MountThread.current.getAttributes(request!, inode) }
        table.setattr = { request, inode, attributes, fields, _ in
            MountThread.current.setAttributes(request!, inode, attributes!, fields)
        }
        table.readlink = { MountThread.current.readLink($0!, $1) }
        table.statfs = { MountThread.current.fileSystemStatus($0!, $1) }
        table.getxattr = { MountThread.current.getExtended($0!, $1, $2!, capacity: $3) }
        table.listxattr = { MountThread.current.listExtended($0!, $1, capacity: $2) }
        table.setxattr = { request, inode, name, value, count, flags in
            let bytes = UnsafeRawBufferPointer(start: value, count: count)
            MountThread.current.setExtended(request!, inode, name!, bytes, flags: flags)
        }
        table.removexattr = { MountThread.current.removeExtended($0!, $1, $2!) }
    }

    private static func addFiles(_ table: inout fuse_lowlevel_ops) {
        table.open = { MountThread.current.open($0!, $1, $2!) }
        table.release = { request, _, file in MountThread.current.release(request!, file!) }
        table.read = { request, _, count, offset, file in
            MountThread.current.read(request!, file!, count: count, offset: offset)
        }
        table.write = { request, _, bytes, count, offset, file in
            MountThread.current.write(request!, file!, UnsafeRawPointer(bytes!), count: count, offset: offset)
        }
        table.fsync = { request, _, dataOnly, file in
            MountThread.current.synchronize(request!, file!, dataOnly: dataOnly != 0)
        }
        table.fallocate = { request, _, mode, offset, count, file in
            MountThread.current.allocate(request!, file!, mode: mode, offset: offset, count: count)
        }
        table.lseek = { request, _, offset, whence, file in
            MountThread.current.seek(request!, file!, offset: offset, whence: whence)
        }
        table.copy_file_range = { request, _, sourceOffset, source, _, targetOffset, target, count, _ in
            MountThread.current.copy(
                request!, from: source!, sourceOffset, to: target!, targetOffset, count: count)
        }
    }

    private static func addDirectories(_ table: inout fuse_lowlevel_ops) {
        table.opendir = { MountThread.current.openDirectory($0!, $1, $2!) }
        table.releasedir = { request, _, file in MountThread.current.release(request!, file!) }
        table.readdir = { request, inode, capacity, position, file in
            MountThread.current.readDirectory(request!, inode, file!, capacity, position, entries: false)
        }
        table.readdirplus = { request, inode, capacity, position, file in
            MountThread.current.readDirectory(request!, inode, file!, capacity, position, entries: true)
        }
        table.fsyncdir = { request, _, dataOnly, file in
            MountThread.current.synchronize(request!, file!, dataOnly: dataOnly != 0)
        }
    }
}
