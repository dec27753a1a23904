import Glibc
import Kernel
import Lite
import Logging
import StorageMount
import StorageService

/// `lego-bench-storage [--overlay] DIRECTORY [COMMAND [ARGUMENT]...]`: serves DIRECTORY through a storage component and
/// its mount, both in this process over the soft device, in mounts of its own; then runs COMMAND there (LEGO_MOUNT and
/// LEGO_NATIVE name the two trees), or measures the mount against the directory itself and prints a table.
@main
struct Main {
    static func main() {
        do {
            exit(try run(Array(CommandLine.arguments.dropFirst())))
        } catch {
            complain("lego-bench-storage: \(error)")
            exit(1)
        }
    }

    private static func run(_ arguments: [String]) throws -> Int32 {
        var arguments = arguments
        let isOverlay = arguments.first == "--overlay"
        if isOverlay { arguments.removeFirst() }
        guard let directory = arguments.first else {
            complain("usage: lego-bench-storage [--overlay] DIRECTORY [COMMAND [ARGUMENT]...]")
            return 64
        }
        try StorageService.enterPrivateMounts()
        let rig = try StorageRig(directory: directory, isOverlay: isOverlay)
        defer { rig.close() }
        let command = Array(arguments.dropFirst())
        if command.isEmpty {
            try StorageBenchmark(native: directory, mounted: rig.mountPoint).run()
            return 0
        }
        setenv("LEGO_MOUNT", rig.mountPoint, 1)
        setenv("LEGO_NATIVE", directory, 1)
        return try spawn(command)
    }

    private static func complain(_ line: String) {
        let line = line + "\n"
        _ = write(STDERR_FILENO, line, line.utf8.count)
    }

    private static func spawn(_ command: [String]) throws -> Int32 {
        var words: [UnsafeMutablePointer<CChar>?] = command.map { strdup($0) } + [nil]
        defer { for word in words { free(word) } }
        var child = pid_t()
        let result = posix_spawnp(&child, command[0], nil, nil, &words, environ)
        if result != 0 { throw KernelError(command[0], result) }
        var status: Int32 = 0
        while waitpid(child, &status, 0) < 0 && errno == EINTR {}
        return status & 0x7f == 0 ? status >> 8 & 0xff : 128 + status & 0x7f
    }
}

/// A storage component and a processor's mount of it, in one process.
final class StorageRig {
    let mountPoint: String
    private let storageNode: RackNode
    private let processorNode: RackNode
    private let service: StorageService
    private let mount: StorageMount
    private let state: String

    init(directory: String, isOverlay: Bool) throws {
        let logger = Logger(label: "bench")
        var template = Array("/tmp/lego-bench-storage-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw KernelError("mkdtemp") }
        state = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
        mountPoint = state + "/mount"
        mkdir(mountPoint, 0o755)
        let export: StorageConfiguration.Export =
            isOverlay ? .overlay(lower: directory, stateDirectory: state) : .directory(directory)
        let configuration = StorageConfiguration(export: export)
        var lite = LiteConfiguration(
            name: "storage", listen: .init(host: "127.0.0.1", port: 0), poolBytes: configuration.poolBytes)
        lite.workers = configuration.stagingBuffers
        storageNode = try RackNode(device: RackDevice(), configuration: lite)
        service = try StorageService(node: storageNode, configuration: configuration, logger: logger)
        try service.start()
        try storageNode.start()
        lite.name = "processor"
        lite.poolBytes = StorageMount.bufferBytes(threads: 4)
        processorNode = try RackNode(device: RackDevice(), configuration: lite)
        try processorNode.start()
        let peer = try processorNode.connect(to: storageNode.address, until: .after(.seconds(5)))
        mount = try StorageMount(
            node: processorNode, storage: { peer }, buffers: processorNode.pool, mountPoint: mountPoint,
            logger: logger)
        try mount.mount()
    }

    func close() {
        mount.unmount()
        processorNode.close()
        storageNode.close()
        service.stop()
        rmdir(mountPoint)
        rmdir(state)
    }
}
