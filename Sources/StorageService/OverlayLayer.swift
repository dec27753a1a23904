import CLinux
import Glibc
import Kernel
import Synchronization

/// A change by the host that an overlay does not show yet: a path, what the overlay shows there, and what is there, by hash.
struct OverlayChange: Equatable {
    private let hash: Int

    /// nil: there is nothing.
    init(_ path: UnsafePointer<CChar>, shown: lego_file_status?, below: lego_file_status?) {
        var hasher = Hasher()
        hasher.combine(bytes: UnsafeRawBufferPointer(start: path, count: strlen(path)))
        for state in [shown, below] {
            hasher.combine(state?.inode)
            hasher.combine(state?.birth_ns)
            hasher.combine(state?.change_s)
            hasher.combine(state?.change_ns)
        }
        hash = hasher.finalize()
    }
}

/// One overlay of the tree with the two directories that it is made of, so that what the host has changed below it is
/// seen.
///
/// overlayfs asks its lower layer for a name once, and keeps the answer, that there is none too, for as long as the
/// kernel has room ("Changes to underlying filesystems", Documentation/filesystems/overlayfs.rst). The lower layer of a
/// local rack is a host that goes on working: whoever compiles a program there again and runs it must get the new one.
/// So each name that is looked up is looked up below too, and what has become different there is forgotten by the
/// overlay (`forgetNames`). Any thread.
final class OverlayLayer: Sendable {
    /// Where in the tree: empty, or "home/user".
    let place: String
    private let mountPoint: String
    /// The lower directory as a mount of its own, without what is mounted in it, as the overlay sees it.
    private let lower: Descriptor
    private let upper: Descriptor
    private let merged: MergedDirectories

    init(place: String, mountPoint: String, lower: String, upper: String) throws(KernelError) {
        self.place = place
        self.mountPoint = mountPoint
        self.lower = Descriptor(taking: try checked("open_tree", lego_mount_clone(lower)))
        self.upper = Descriptor(taking: try checked("open", lego_directory_open(upper)))
        var (ours, others) = (lego_file_status(), lego_file_status())
        _ = try checked("statx", lego_file_status(self.upper.raw, "", &ours))
        _ = try checked("statx", lego_file_status(self.lower.raw, "", &others))
        merged = MergedDirectories(showsLowerNumbers: ours.device == others.device)
    }

    /// What the lower layer has become, where the overlay answers for a path below `place` what it does not say any more; nil
    /// where it does. `found` is 0 with the status that the overlay tells, or a negative error number. Two system calls where
    /// nothing has changed, three for what programs have changed.
    func change(_ path: UnsafePointer<CChar>, _ found: Int32, _ status: lego_file_status) -> OverlayChange? {
        // What is mounted there is no layer's.
        if found == 0 ? status.is_mount_root != 0 : found != -ENOENT { return nil }
        var below = lego_file_status()
        let there = lego_file_status(lower.raw, path, &below)
        if there < 0 && (found < 0 || there != -ENOENT) { return nil }
        if there == 0 && found == 0 && Self.isSame(status, below) {
            merged.note(status, below)
            return nil
        }
        let lowers = there == 0 ? below : nil
        var above = lego_file_status()
        let covered = lego_file_status(upper.raw, path, &above)
        if covered != -ENOENT {
            // Only of a directory do both layers have their say.
            guard covered == 0, found == 0, status.isDirectory, above.isDirectory,
                !merged.isShown(status, above, lowers), !isOwn(path)
            else { return nil }
        }
        if !isLowersToSay(path) { return nil }
        return OverlayChange(path, shown: found == 0 ? status : nil, below: lowers)
    }

    /// Whether the two are the same file, unchanged. The number of links tells a file that exists no more from one that
    /// was put in its place within a tick of the clock.
    private static func isSame(_ status: lego_file_status, _ below: lego_file_status) -> Bool {
        status.mode == below.mode && status.size == below.size
            && status.change_s == below.change_s && status.change_ns == below.change_ns
            && status.birth_ns == below.birth_ns
            && (status.links > 0 || status.isDirectory)
    }

    /// Whether the upper layer has no directory on the way to the path that hides the lower layer's or stands for another one.
    private func isLowersToSay(_ path: UnsafePointer<CChar>) -> Bool {
        withUnsafeTemporaryAllocation(of: CChar.self, capacity: strlen(path) + 1) { way in
            strcpy(way.baseAddress!, path)
            while let slash = strrchr(way.baseAddress!, Int32(UInt8(ascii: "/"))) {
                slash.pointee = 0
                if isOwn(way.baseAddress!) { return false }
            }
            return true
        }
    }

    /// Whether the upper layer has a directory that does not show the lower one of the same path.
    private func isOwn(_ path: UnsafePointer<CChar>) -> Bool {
        let raw = lego_file_locate(upper.raw, path)
        if raw < 0 { return raw != -ENOENT }
        let directory = Descriptor(taking: raw)
        return lego_attribute_get(directory.raw, "trusted.overlay.opaque", nil, 0) >= 0
            || lego_attribute_get(directory.raw, "trusted.overlay.redirect", nil, 0) >= 0
    }

    /// Has the overlay ask its layers again for all names of files and directories that nobody has open: the kernel lets
    /// go of a file system's unused entries when it is remounted (`reconfigure_super`, fs/super.c). Options are ignored.
    func forgetNames() throws(KernelError) {
        let flags = UInt(MS_REMOUNT) | UInt(MS_NODEV) | UInt(MS_NOSUID)
        _ = try checked("remount", lego_mount(nil, mountPoint, nil, flags, nil))
    }
}

/// Which lower directory an overlay shows merged with the upper one of the same path. Any thread; one lock, a leaf.
///
/// An overlay keeps the lower directory that it once found, and its file system gives no other one that number meanwhile. Where
/// both layers are one file system, the overlay tells that number as its own (`ovl_getattr`, fs/overlayfs/inode.c). Where they
/// are not, it numbers what it finds anew each time, so that what such a number stands for can be remembered.
private final class MergedDirectories: Sendable {
    private let showsLowerNumbers: Bool
    /// Lower directories, 0 for none, by the overlay's numbers.
    private let known = Mutex<[UInt64: UInt64]>([:])
    /// When there are more, all are forgotten: what the host exchanges until it is found again is taken for what is shown.
    private static let known_max = 65536

    init(showsLowerNumbers: Bool) { self.showsLowerNumbers = showsLowerNumbers }

    /// The overlay shows what the lower layer has. Directories that are not merged yet may come to be.
    func note(_ status: lego_file_status, _ below: lego_file_status) {
        if showsLowerNumbers || !status.isDirectory { return }
        known.withLock { Self.note(&$0, status, below.inode) }
    }

    /// Whether the overlay's directory is made of what is in the layers now.
    func isShown(_ status: lego_file_status, _ above: lego_file_status, _ below: lego_file_status?) -> Bool {
        let lower = below.map { $0.isDirectory ? $0.inode : 0 } ?? 0
        if showsLowerNumbers { return status.inode == (lower == 0 ? above.inode : lower) }
        return known.withLock { known in
            if let seen = known[status.inode] { return seen == lower }
            Self.note(&known, status, lower)
            return true
        }
    }

    private static func note(_ known: inout [UInt64: UInt64], _ status: lego_file_status, _ lower: UInt64) {
        if known.count >= known_max { known.removeAll(keepingCapacity: true) }
        known[status.inode] = lower
    }
}

extension lego_file_status {
    fileprivate var isDirectory: Bool { mode & UInt32(S_IFMT) == UInt32(S_IFDIR) }
}

/// The overlays of a tree. Any thread.
final class OverlayLayers: Sendable {
    private let layers: [OverlayLayer]
    /// The tree's root as the kernel writes it in the paths of what is open in it.
    private let root: String

    init(_ layers: [OverlayLayer], root: Int32) {
        // What lies deeper comes first.
        self.layers = layers.sorted { $0.place.utf8.count > $1.place.utf8.count }
        self.root = Self.withPath(root) { String(cString: $0) } ?? ""
    }

    /// What the host has made of a name in an open directory, where an overlay's answer for it is out of date.
    func change(
        _ parent: Int32, _ name: UnsafePointer<CChar>, _ found: Int32, _ status: lego_file_status
    ) -> OverlayChange? {
        Self.withPath(parent) { path -> OverlayChange? in
            let count = root.utf8.count
            guard count > 0, strncmp(path, root, count) == 0 else { return nil }
            strcat(path, "/")
            strcat(path, name)
            let inside = path + count + 1
            for layer in layers {
                let length = layer.place.utf8.count
                if length == 0 { return layer.change(inside, found, status) }
                if strncmp(inside, layer.place, length) == 0 && inside[length] == UInt8(ascii: "/") {
                    return layer.change(inside + length + 1, found, status)
                }
            }
            return nil
        } ?? nil
    }

    /// Forgets what all of them have looked up. Where one cannot, its names stay as they are.
    func forgetNames() {
        for layer in layers { try? layer.forgetNames() }
    }

    /// The path of an open directory, with room for a name behind it; nil where it has none, or too long a one.
    private static func withPath<Result>(
        _ descriptor: Int32, _ body: (UnsafeMutablePointer<CChar>) -> Result
    ) -> Result? {
        let deleted = " (deleted)"
        return withUnsafeTemporaryAllocation(of: CChar.self, capacity: Int(PATH_MAX) + Int(NAME_MAX) + 2) { path in
            let count = Int(lego_file_path(descriptor, path.baseAddress!, Int(PATH_MAX)))
            if count < 0 { return nil }
            if count > deleted.utf8.count, strcmp(path.baseAddress! + count - deleted.utf8.count, deleted) == 0 {
                return nil
            }
            return body(path.baseAddress!)
        }
    }
}
