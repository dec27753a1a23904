import CFuse
import Glibc
import Kernel
import Synchronization

/// Tells the kernel that it shall ask again for what it was told, through /dev/fuse. Any thread but the mount's own: the
/// kernel takes the directories' locks, which it may hold while it waits for one of those.
final class KernelNotices: Sendable {
    /// -1 before the mount and after its end.
    private let device = Mutex<Int32>(-1)

    deinit { end() }

    /// Takes a copy of the descriptor.
    func begin(_ descriptor: Int32) {
        device.withLock { $0 = fcntl(descriptor, F_DUPFD_CLOEXEC, 0) }
    }

    /// The mount has ended.
    func end() {
        device.withLock { raw in
            if raw >= 0 { close(raw) }
            raw = -1
        }
    }

    /// One connection for many notices; nil when there is no mount.
    func open() -> Writer? {
        let copy = device.withLock { fcntl($0, F_DUPFD_CLOEXEC, 0) }
        return copy < 0 ? nil : Writer(descriptor: Descriptor(taking: copy))
    }

    struct Writer: ~Copyable {
        fileprivate let descriptor: Descriptor

        /// What it was told of a name in `parent`, nil: nothing, and of the inode, 0: that there is none.
        func expire(parent: UInt64, name: UnsafePointer<CChar>?, inode: UInt64) {
            if let name { lego_fuse_expire_name(descriptor.raw, parent, name) }
            if inode != 0 { lego_fuse_expire_attributes(descriptor.raw, inode) }
        }
    }
}
