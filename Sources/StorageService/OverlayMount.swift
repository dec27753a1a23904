import CLinux
import Glibc
import Kernel
import Logging
import SystemPackage

/// An overlayfs over a directory of the host, and one over each file system that is mounted below it and holds files
/// (`MountEntry.holdsFiles`), at its place. All are mounted in the process's own mount namespace
/// (`StorageService.enterPrivateMounts`), so that they end with it, however it ends.
struct OverlayMount {
    /// STATE/tree: where the merged tree is.
    let mountPoint: String
    private let lower: String
    private(set) var layers: [OverlayLayer] = []
    private let stateDirectory: String

    /// Keeps any other storage component, of whatever process, away from a state directory while the descriptor is
    /// open: the kernel lets two overlays write to one layer, and both would be damaged.
    static func lock(_ stateDirectory: String) throws(StorageError) -> Descriptor {
        try makeDirectory(stateDirectory, mode: 0o700)
        let path = stateDirectory + "/lock"
        let raw = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        if raw < 0 { throw .state(path: path, KernelError("open")) }
        let descriptor = Descriptor(taking: raw)
        if flock(raw, LOCK_EX | LOCK_NB) < 0 {
            if errno == EWOULDBLOCK { throw .stateInUse(path: stateDirectory) }
            throw .state(path: path, KernelError("flock"))
        }
        return descriptor
    }

    /// With the state directory's lock held.
    init(lower: String, stateDirectory: String, logger: Logger) throws(StorageError) {
        self.lower = lower
        self.stateDirectory = stateDirectory
        mountPoint = stateDirectory + "/tree"
        var status = stat()
        if stat(lower, &status) < 0 { throw .export(path: lower, KernelError("stat")) }
        if status.st_mode & S_IFMT != S_IFDIR { throw .export(path: lower, KernelError("stat", ENOTDIR)) }
        try Self.makeDirectory(mountPoint, mode: 0o700)
        let below = MountTable.withFiles(MountTable.current(), below: lower)
        try mount(lower: lower, layer: stateDirectory + "/root", at: mountPoint, inTree: "")
        for entry in below where !entry.mountPoint.hasPrefix(stateDirectory + "/") {
            mountBelow(entry, logger: logger)
        }
    }

    /// One of the file systems below. A failure costs the programs that file system and is logged.
    private mutating func mountBelow(_ entry: MountEntry, logger: Logger) {
        var below = FilePath(entry.mountPoint)
        guard below.removePrefix(FilePath(lower)) else { return }
        let place = FilePath(mountPoint).appending(below.components).string
        var status = stat()
        guard stat(entry.mountPoint, &status) == 0, stat(place, &status) == 0 else { return }
        if status.st_mode & S_IFMT != S_IFDIR {
            // A container's /etc/resolv.conf and the like: a single file, which has no layers.
            let flags = UInt(MS_BIND)
            if lego_mount(entry.mountPoint, place, nil, flags, nil) == 0 {
                _ = lego_mount(nil, place, nil, flags | UInt(MS_REMOUNT) | UInt(MS_RDONLY), nil)
            }
            return
        }
        // '=' cannot be mistaken for a part of the path: it is escaped in it.
        let name = "/\(below)".replacing("=", with: "==").replacing("/", with: "=")
        do {
            let layer = stateDirectory + "/below" + name
            try mount(lower: entry.mountPoint, layer: layer, at: place, inTree: below.string)
        } catch {
            logger.warning("\(entry.mountPoint) is left out of the tree: \(error)")
        }
    }

    private mutating func mount(
        lower: String, layer: String, at place: String, inTree: String
    ) throws(StorageError) {
        let upper = layer + "/upper"
        try Self.makeDirectory(layer, mode: 0o700)
        try Self.makeDirectory(layer + "/work", mode: 0o700)
        // The merged root shows the upper directory's owner and permissions.
        var status = stat()
        if stat(lower, &status) < 0 { throw .export(path: lower, KernelError("stat")) }
        var existing = stat()
        if stat(upper, &existing) < 0 {
            try Self.makeDirectory(upper, mode: 0o700)
            if chown(upper, status.st_uid, status.st_gid) < 0 || chmod(upper, status.st_mode & 0o7777) < 0 {
                throw .state(path: upper, KernelError("chmod"))
            }
        }
        // Before the mount, so that a failure leaves none.
        let opened: OverlayLayer
        do {
            opened = try OverlayLayer(place: inTree, mountPoint: place, lower: lower, upper: upper)
        } catch { throw .state(path: upper, error) }
        let options =
            "lowerdir=\(Self.escaped(lower)),upperdir=\(Self.escaped(upper)),workdir=\(Self.escaped(layer + "/work")),"
            + "redirect_dir=on,index=off,metacopy=off,xino=auto"
        let result = lego_mount("lego", place, "overlay", UInt(MS_NODEV) | UInt(MS_NOSUID), options)
        switch -result {
        case 0: break
        case ENODEV: throw .noOverlay
        case EBUSY: throw .stateInUse(path: stateDirectory)
        case EINVAL, EOPNOTSUPP: throw .stateUnsuitable(path: stateDirectory)
        default: throw .state(path: stateDirectory, KernelError("mount overlay", -result))
        }
        layers.append(opened)
    }

    /// Separators of mount options and of layers.
    static func escaped(_ path: String) -> String {
        path.replacing("\\", with: "\\\\").replacing(",", with: "\\,").replacing(":", with: "\\:")
    }

    private static func makeDirectory(_ path: String, mode: UInt32) throws(StorageError) {
        if mkdir(path, mode) < 0 && errno != EEXIST { throw .state(path: path, KernelError("mkdir")) }
    }
}
