import CLinux
import Glibc
import Kernel
import Logging
import SystemPackage

/// The tree that a storage component serves: a descriptor of its root, what is hidden in it, and how its inode numbers
/// read. Immutable once made; any thread.
final class ExportTree: Sendable {
    private let rootDescriptor: Descriptor
    let rootStatus: lego_file_status
    /// Directories that nobody may find, by identity. Held open, so that the identity stays theirs.
    private let hidden: [(key: NodeKey, descriptor: Int32)]
    /// The file systems of the tree: the root's first, then those mounted in it, by path.
    private let devices: [UInt64]
    /// Where an overlay is mounted, to be unmounted at the end; nil for a plain directory.
    private let mountPoint: String?
    /// What an overlay is made of; nil for a plain directory.
    let overlays: OverlayLayers?
    /// Of an overlay's state directory.
    private let lock: Descriptor?

    var root: Int32 { rootDescriptor.raw }

    init(_ configuration: StorageConfiguration, logger: Logger) throws(StorageError) {
        let path: String
        var hiddenPaths = configuration.hidden
        var lower = ""
        var layers: [OverlayLayer]?
        switch configuration.export {
        case .directory(let directory):
            path = directory
            lower = directory
            mountPoint = nil
            lock = nil
        case .overlay(let lowerPath, let stateDirectory):
            lock = try OverlayMount.lock(stateDirectory)
            let overlay = try OverlayMount(lower: lowerPath, stateDirectory: stateDirectory, logger: logger)
            path = overlay.mountPoint
            mountPoint = overlay.mountPoint
            layers = overlay.layers
            lower = lowerPath
            hiddenPaths.append(stateDirectory)
        }
        let mountPoint = mountPoint
        func failed(_ error: KernelError) -> StorageError {
            if let mountPoint { _ = lego_unmount(mountPoint, 0) }
            return .export(path: lower, error)
        }
        let raw = lego_directory_open(path)
        if raw < 0 { throw failed(KernelError("open", -raw)) }
        rootDescriptor = Descriptor(taking: raw)
        overlays = layers.map { OverlayLayers($0, root: raw) }
        var status = lego_file_status()
        let result = lego_file_status(raw, "", &status)
        if result < 0 { throw failed(KernelError("statx", -result)) }
        rootStatus = status
        hidden = hiddenPaths.compactMap { Self.locate($0, lower: lower, root: raw) }
        devices = [status.device] + Self.devices(below: path, except: status.device)
    }

    deinit {
        for directory in hidden { close(directory.descriptor) }
    }

    /// Ends the overlay's mount at once; open descriptors stay usable.
    func unmount() {
        if let mountPoint { _ = lego_unmount(mountPoint, 0) }
    }

    /// Finds the directory of a host path in the tree; nil when it is not in it.
    private static func locate(_ path: String, lower: String, root: Int32) -> (NodeKey, Int32)? {
        guard var relative = resolved(path), let base = resolved(lower), relative != base, relative.removePrefix(base)
        else { return nil }
        var descriptor = dup(root)
        var status = lego_file_status()
        for name in relative.components {
            let next = name.withPlatformString { lego_file_locate(descriptor, $0) }
            close(descriptor)
            if next < 0 { return nil }
            descriptor = next
        }
        if lego_file_status(descriptor, "", &status) < 0 {
            close(descriptor)
            return nil
        }
        return (NodeKey(status), descriptor)
    }

    /// The path without symbolic links; nil when there is nothing.
    private static func resolved(_ path: String) -> FilePath? {
        guard let real = realpath(path, nil) else { return nil }
        defer { free(real) }
        return FilePath(platformString: real)
    }

    private static func devices(below path: String, except root: UInt64) -> [UInt64] {
        var devices: [UInt64] = []
        for entry in MountTable.withFiles(MountTable.current(), below: path) {
            let device = UInt64(entry.major) << 32 | UInt64(entry.minor)
            if device != root && !devices.contains(device) { devices.append(device) }
        }
        return devices
    }

    func isHidden(_ status: lego_file_status) -> Bool {
        for directory in hidden where directory.key == NodeKey(status) { return true }
        return false
    }

    /// An inode number that is unique in the tree: the file system's own on the root's file system, and on another one,
    /// whose numbers may coincide with the root's, mixed with its place in the list.
    func inode(_ inode: UInt64, device: UInt64) -> UInt64 {
        if device == devices[0] { return inode }
        let index = devices.firstIndex(of: device).map { UInt64($0) } ?? (device & 0xfff) + 1024
        return inode ^ index << 48
    }

    /// Space of the root's file system, in bytes.
    func space() -> (capacity: UInt64, used: UInt64) {
        var status = lego_file_system_status()
        if lego_file_system_status(root, &status) < 0 { return (0, 0) }
        return (
            status.blocks &* status.block_bytes,
            (status.blocks &- min(status.blocks, status.blocks_free)) &* status.block_bytes
        )
    }
}

/// What tells nodes apart on one host.
struct NodeKey: Hashable {
    var device: UInt64
    var inode: UInt64

    init(_ status: lego_file_status) {
        device = status.device
        inode = status.inode
    }
}
