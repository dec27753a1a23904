import CLinux
import Fabric
import Glibc
import Kernel
import Lite
import Logging
import StorageMount
import Synchronization
import Testing
import Wire

@testable import StorageService

/// All tests of this target: they mount, and they must not starve each other on a small machine.
@Suite(.serialized) enum StorageTests {}

let logger = Logger(label: "test")

/// Runs `body` on a thread that has mounts of its own; they vanish with it, whatever happens.
func withPrivateMounts<Result: Sendable>(
    _ body: @escaping @Sendable () throws -> Result
) async throws -> Result {
    try await withCheckedThrowingContinuation { continuation in
        do {
            _ = try KernelThread(name: "test-mounts") {
                continuation.resume(
                    with: Swift.Result {
                        try StorageService.enterPrivateMounts()
                        return try body()
                    })
            }
        } catch {
            continuation.resume(throwing: error)
        }
    }
}

/// Looks again and again until a condition holds; false at the deadline.
func eventually(within limit: Duration = .seconds(5), _ condition: () -> Bool) -> Bool {
    let deadline = Deadline.after(limit)
    while !condition() {
        if deadline.hasPassed { return false }
        usleep(1000)
    }
    return true
}

/// A new directory, removed with everything in it when the object goes.
final class TemporaryDirectory: Sendable {
    let path: String

    init() throws {
        var template = Array("/tmp/lego-storage-test-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw KernelError("mkdtemp") }
        path = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
        // Programs of any user come through here.
        chmod(path, 0o755)
    }

    deinit { _ = try? Child.run(["rm", "-rf", path]) }

    func make(_ name: String) -> String {
        mkdir(path + "/" + name, 0o755)
        chmod(path + "/" + name, 0o755)
        return path + "/" + name
    }
}

/// A program that is run to its end.
enum Child {
    struct Failure: Error, CustomStringConvertible {
        var description: String
    }

    /// What it wrote; an error when it fails, or when it is still there at the deadline, at which it is killed.
    @discardableResult
    static func run(
        _ command: [String], input: Int32? = nil, within limit: Duration = .seconds(240)
    ) throws -> String {
        let deadline = Deadline.after(limit)
        var ends: [Int32] = [-1, -1]
        if pipe(&ends) < 0 { throw KernelError("pipe") }
        _ = fcntl(ends[0], F_SETFD, FD_CLOEXEC)
        defer { close(ends[0]) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, ends[1], 1)
        posix_spawn_file_actions_adddup2(&actions, ends[1], 2)
        posix_spawn_file_actions_addclose(&actions, ends[1])
        var words: [UnsafeMutablePointer<CChar>?] = command.map { strdup($0) } + [nil]
        defer { for word in words { free(word) } }
        var child = pid_t()
        let result = posix_spawnp(&child, command[0], &actions, nil, &words, environ)
        close(ends[1])
        if result != 0 { throw KernelError(command[0], result) }
        let (text, isTimely) = drain(ends[0], until: deadline)
        if !isTimely { kill(child, SIGKILL) }
        var status: Int32 = 0
        while waitpid(child, &status, 0) < 0 && errno == EINTR {}
        if !isTimely { throw Failure(description: "\(command) did not end in \(limit): \(text.suffix(2000))") }
        if status != 0 { throw Failure(description: "\(command) ended with \(status): \(text.suffix(2000))") }
        return text
    }

    private static func drain(_ descriptor: Int32, until deadline: Deadline) -> (String, Bool) {
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            var watched = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            let ready = poll(&watched, 1, deadline.pollMilliseconds)
            if ready < 0 && errno == EINTR { continue }
            if ready <= 0 { return (String(decoding: bytes, as: UTF8.self), false) }
            let count = read(descriptor, &buffer, buffer.count)
            if count <= 0 { return (String(decoding: bytes, as: UTF8.self), true) }
            bytes += buffer[..<count]
        }
    }
}

/// A storage component's node and service.
final class TestStorage: Sendable {
    let node: RackNode
    let service: StorageService

    init(_ configuration: StorageConfiguration) throws {
        var lite = LiteConfiguration(
            name: "storage", listen: FabricAddress(host: "127.0.0.1", port: 0), poolBytes: configuration.poolBytes)
        lite.workers = configuration.stagingBuffers
        node = try RackNode(device: RackDevice(), configuration: lite)
        let mask = umask(0)
        service = try StorageService(node: node, configuration: configuration, logger: logger)
        do {
            try service.start()
            try node.start()
        } catch {
            node.close()
            throw error
        }
        umask(mask)
    }

    /// As a death: the connections break first.
    func close() {
        node.close()
        service.stop()
    }
}

/// A processor's node with the mount of a storage component that a test can take away and bring back.
final class TestProcessor: Sendable {
    let node: RackNode
    let mount: StorageMount

    init(_ storage: TestStorage?, at mountPoint: String, threads: Int = 4) throws {
        let poolBytes = StorageMount.bufferBytes(threads: threads)
        let lite = LiteConfiguration(
            name: "processor", listen: FabricAddress(host: "127.0.0.1", port: 0), poolBytes: poolBytes)
        let node = try RackNode(device: RackDevice(), configuration: lite)
        self.node = node
        try node.start()
        let box = Box()
        mount = try StorageMount(
            node: node, storage: { box.peer.withLock { $0 } }, buffers: node.pool, mountPoint: mountPoint,
            threads: threads, logger: logger)
        self.box = box
        if let storage { try use(storage) }
        try mount.mount()
    }

    private final class Box: Sendable { let peer = Mutex<LitePeer?>(nil) }
    private let box: Box

    func use(_ storage: TestStorage) throws { try use(storage.node.address) }

    func use(_ address: FabricAddress) throws {
        let peer = try node.connect(to: address, until: .after(.seconds(10)))
        box.peer.withLock { $0 = peer }
        mount.storageChanged()
    }

    /// Of the link to the storage component in use.
    func setModel(_ model: LinkModel?) throws {
        guard let peer = box.peer.withLock({ $0 }) else { throw CheckFailure(description: "no component") }
        try node.setLinkModel(model, for: peer)
    }

    func useNone() {
        box.peer.withLock { $0 = nil }
        mount.storageChanged()
    }

    func close() {
        mount.unmount()
        node.close()
    }
}

func script(_ name: String) -> String {
    #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/") + "/Scripts/"
        + name
}

/// The error number of a call that answers -1, or 0.
func errorNumber(_ result: some BinaryInteger) -> Int32 { result < 0 ? errno : 0 }

func contents(_ path: String) -> String? {
    let file = open(path, O_RDONLY | O_CLOEXEC)
    if file < 0 { return nil }
    defer { close(file) }
    var bytes = [UInt8](repeating: 0, count: 1 << 16)
    let count = read(file, &bytes, bytes.count)
    return count < 0 ? nil : String(decoding: bytes[..<count], as: UTF8.self)
}

@discardableResult
func put(_ path: String, _ text: String, flags: Int32 = O_CREAT | O_TRUNC) -> Int32 {
    let file = open(path, O_WRONLY | O_CLOEXEC | flags, 0o644)
    if file < 0 { return errno }
    defer { close(file) }
    return write(file, text, text.utf8.count) == text.utf8.count ? 0 : errno
}

/// The end of something that runs on another thread.
final class TestStart: Sendable {
    private let outcome = Mutex<Result<String, any Error>?>(nil)

    func finish(_ result: Result<String, any Error>) { outcome.withLock { $0 = result } }
    func result() throws -> String {
        guard let outcome = outcome.withLock({ $0 }) else { throw CheckFailure(description: "it never ended") }
        return try outcome.get()
    }

    /// Waits until the text of a file is another than now, as long as the thread runs; false when it has ended.
    func waitForFile(_ path: String) -> Bool {
        let before = contents(path)
        let deadline = Deadline.after(.seconds(60))
        while outcome.withLock({ $0 == nil }) && !deadline.hasPassed {
            if let now = contents(path), now != before { return true }
            usleep(500)
        }
        return false
    }
}
