import CLinux
import Fabric
import Glibc
import Kernel
import Lite
import Logging
import MemoryService
import ProcessorService
import Synchronization
import Wire

/// A processor's memory engine with its memory components, all in this process: real nodes, real pools, no daemons.
final class CaptureRack: Sendable {
    struct MemoryComponent: Sendable {
        let name: String
        let node: RackNode
        let service: MemoryService
    }

    let memories: [MemoryComponent]
    let node: RackNode
    let cache: ExCache
    let remote: RemoteMemory
    private let nextProgram = Atomic<UInt64>(1)

    init(memories count: Int = 1, memoryBytes: Int = 1 << 30, cacheBytes: UInt64 = 1 << 30) throws {
        var memories: [MemoryComponent] = []
        for index in 0..<count {
            let node = try Self.makeNode("memory\(index)", memoryBytes)
            let service = try MemoryService(
                node: node, configuration: MemoryServiceConfiguration(), logger: Logger(label: "memory\(index)"))
            try node.start()
            memories.append(MemoryComponent(name: "memory\(index)", node: node, service: service))
        }
        node = try Self.makeNode("processor0", 16 << 20)
        try node.start()
        self.memories = memories
        cache = ExCache(capacityBytes: cacheBytes)
        var logger = Logger(label: "processor0")
        logger.logLevel = .warning
        remote = RemoteMemory(
            node: node,
            place: { [memories] _, excluded in
                for memory in memories where !excluded.contains(memory.node.id) {
                    return (
                        .ok,
                        ManagerProcessorPlace(
                            memory: memory.node.id, name: memory.name, liteAddress: memory.node.address.description)
                    )
                }
                return (.noSpace, nil)
            }, logger: logger)
    }

    deinit {
        node.close()
        for memory in memories {
            memory.node.close()
            memory.service.stop()
        }
    }

    private static func makeNode(_ name: String, _ bytes: Int) throws -> RackNode {
        try RackNode(
            device: RackDevice(),
            configuration: LiteConfiguration(
                name: name, listen: FabricAddress(host: "127.0.0.1", port: 0), poolBytes: bytes))
    }

    /// How a captured program ended.
    struct Outcome: Sendable {
        /// As a shell reports it; 124: it took too long.
        var status: Int32
        var output: String
        var statistics: ProgramStatistics
        var failure: ProgramFailure?
    }

    /// Runs a program in the launcher's namespace under a monitor. `during` runs while it does.
    func run(
        _ arguments: [String], limitBytes: UInt64 = 0, seconds: Int = 60, launcher: String, output: String? = nil,
        during: ((ProgramMonitor) -> Void)? = nil
    ) throws -> Outcome {
        var pair: (Int32, Int32) = (-1, -1)
        let made = withUnsafeMutableBytes(of: &pair) {
            socketpair(
                AF_UNIX, Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0,
                $0.assumingMemoryBound(to: Int32.self).baseAddress)
        }
        if made < 0 { throw KernelError("socketpair") }
        let socket = Descriptor(taking: pair.0)
        let theirs = Descriptor(taking: pair.1)
        let outputFile =
            try output.map { path throws(KernelError) in
                let raw = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
                if raw < 0 { throw KernelError("open") }
                return Descriptor(taking: raw)
            } ?? Descriptor(checking: "memfd_create", lego_memfd_create("output", 0))
        let child = try spawn([launcher, "\(seconds)"] + arguments, socket: theirs.raw, output: outputFile.raw)
        _ = consume theirs
        let filter = SystemCallFilter.bytes()
        if send(socket.raw, filter, filter.count, 0) != filter.count { throw KernelError("send") }
        var byte: UInt8 = 0
        var listener: Int32 = -1
        var count = 0
        let received = lego_receive_descriptors(socket.raw, &byte, 1, &listener, 1, &count, nil, 0)
        if received != 1 || count != 1 { throw KernelError("no listener from the launcher", EPROTO) }
        let failure = Mutex<ProgramFailure?>(nil)
        let seat = ProgramSeat(
            program: ProgramID(rawValue: nextProgram.add(1, ordering: .relaxed).oldValue), name: arguments[0],
            initProcess: child, guardian: -1, limitBytes: limitBytes)
        let monitor = try ProgramMonitor(
            seat: seat, listener: Descriptor(taking: listener), cache: cache, remote: remote, logger: remoteLogger,
            onFatal: { reason in
                failure.withLock { $0 = reason }
                kill(child, SIGKILL)
            })
        try monitor.start()
        _ = send(socket.raw, &byte, 1, 0)
        during?(monitor)
        var status: Int32 = 0
        while waitpid(child, &status, 0) < 0 && errno == EINTR {}
        let statistics = monitor.statistics()
        monitor.stop()
        let code = status & 0x7f == 0 ? status >> 8 & 0xff : 128 + (status & 0x7f)
        return Outcome(
            status: code, output: Self.contents(outputFile.raw), statistics: statistics,
            failure: failure.withLock { $0 })
    }

    private var remoteLogger: Logger {
        var logger = Logger(label: "processor0")
        logger.logLevel = getenv("LEGO_TEST_DEBUG") == nil ? .warning : .debug
        return logger
    }

    private func spawn(_ arguments: [String], socket: Int32, output: Int32) throws(KernelError) -> Int32 {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_adddup2(&actions, output, 1)
        posix_spawn_file_actions_adddup2(&actions, output, 2)
        posix_spawn_file_actions_adddup2(&actions, socket, 3)
        var child: Int32 = 0
        let strings = arguments.map { strdup($0) }
        defer { for string in strings { free(string) } }
        let result = posix_spawn(&child, arguments[0], &actions, nil, strings + [nil], environ)
        if result != 0 { throw KernelError("posix_spawn", result) }
        return child
    }

    private static func contents(_ file: Int32) -> String {
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 1 << 16)
        var offset: off_t = 0
        while true {
            let count = pread(file, &chunk, chunk.count, offset)
            if count <= 0 || bytes.count > 16 << 20 { break }
            bytes += chunk[..<count]
            offset += off_t(count)
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
