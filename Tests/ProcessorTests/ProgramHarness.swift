import CLinux
import Fabric
import Glibc
import Kernel
import Lite
import Logging
import Synchronization
import Wire

@testable import ProcessorService

/// An engine that leaves programs their native memory.
final class NativeEngine: MemoryEngine {
    let filter = SandboxHarness.allowAll
    let residentBytes: UInt64 = 4096
    /// Whether it takes no program.
    let isRefusing = Mutex(false)
    private let onEnds = Mutex<[ProgramID: @Sendable (EndCause) -> Void]>([:])
    /// Programs whose memory has been given back.
    let stopped = Mutex<[ProgramID]>([])
    /// Of processes that joined; closed with the engine.
    let listeners = Mutex<[Int32]>([])

    deinit { for listener in listeners.withLock({ $0 }) { close(listener) } }

    private struct Memory: ProgramMemory {
        let program: ProgramID
        let engine: NativeEngine
        func start() {}
        func join(_ listener: consuming Descriptor) {
            let raw = listener.release()
            engine.listeners.withLock { $0.append(raw) }
        }
        func statistics() -> ProgramStatistics {
            var statistics = ProgramStatistics()
            statistics.faults = 42
            return statistics
        }
        func memoryLost(_ node: NodeID) { engine.end(program, .lost("memory component memory1 was lost")) }
        func prepareCore(process: Int32, until deadline: Deadline) {}
        func stop() { engine.stopped.withLock { $0.append(program) } }
    }

    func makeMemory(
        for seat: ProgramSeat, listener: consuming Descriptor, onEnd: @escaping @Sendable (EndCause) -> Void
    ) throws(KernelError) -> any ProgramMemory {
        if isRefusing.withLock({ $0 }) { throw KernelError("userfaultfd", ENOMEM) }
        onEnds.withLock { $0[seat.program] = onEnd }
        return Memory(program: seat.program, engine: self)
    }

    func end(_ program: ProgramID, _ cause: EndCause) {
        onEnds.withLock { $0[program] }?(cause)
    }
}

/// A processor service without a rack around it: a manager that takes every report (or none), this host's files as the
/// tree.
final class ProgramHarness {
    static let token: [UInt8] = Array(1...16)
    /// Descriptors of the sandbox that waits for the next program, which is built at any time after the first one: its
    /// guardian's process and its two sockets.
    static let waitingSandboxDescriptors = 3

    final class Manager: Sendable {
        let reports = Mutex<[ProcessorManagerReport]>([])
        let isAway = Mutex(false)

        func take(_ report: ProcessorManagerReport) -> Bool {
            if isAway.withLock({ $0 }) { return false }
            reports.withLock { $0.append(report) }
            return true
        }
    }

    let engine = NativeEngine()
    let manager = Manager()
    let directory: TemporaryDirectory
    let service: ProcessorService
    private var isStopped = false

    init(
        tree: StorageTree? = StorageTree(path: "/", name: "storage0"), attachLimit: Duration = .seconds(20),
        manager isManager: @escaping @Sendable (LitePeer) -> Bool = { _ in true }
    ) throws {
        directory = try TemporaryDirectory()
        var configuration = ProcessorConfiguration(
            excacheBytes: 64 << 20, stateDirectory: directory.path,
            attachListen: FabricAddress(host: "127.0.0.1", port: 0))
        configuration.sandboxPath = SandboxHarness.executable
        configuration.attachLimit = attachLimit
        let manager = manager
        service = try ProcessorService(
            configuration: configuration, engine: engine,
            hooks: ProcessorHooks(
                name: { "processor0" }, isManager: isManager, tree: { tree }, report: { manager.take($0) }),
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        try service.start()
    }

    deinit { stop() }

    func stop() {
        if !isStopped { service.stop() }
        isStopped = true
    }

    func request(_ id: UInt64, _ arguments: [String], detached: Bool = false) -> ManagerProcessorStart {
        ManagerProcessorStart(
            program: ProgramID(rawValue: id), name: "test", arguments: arguments,
            environment: ["PATH=/usr/bin:/bin", "LANG=C"], workingDirectory: "/", user: 65534, group: 65534, groups: [],
            excacheBytes: 0, isDetached: detached, attachToken: Self.token)
    }

    /// Starts a program that must start.
    func start(_ id: UInt64, _ arguments: [String], detached: Bool = false) throws {
        let (status, answer) = service.start(request(id, arguments, detached: detached))
        if !status.isOK { throw HarnessError.failed(answer?.reason ?? "\(status)") }
    }

    /// Starts a program and attaches to it.
    func run(_ id: UInt64, _ arguments: [String]) throws -> AttachTestClient {
        try start(id, arguments)
        return try AttachTestClient(service.attachAddress, program: id)
    }

    /// Waits until the manager has been told of a program's end.
    func report(of id: UInt64) throws -> ProcessorManagerReport {
        var found: ProcessorManagerReport?
        _ = eventually {
            found = manager.reports.withLock { $0.first { $0.program.rawValue == id } }
            return found != nil
        }
        guard let found else { throw HarnessError.deadline("report of program \(id)") }
        return found
    }
}

/// The other side of an attach connection. Used by one thread.
final class AttachTestClient {
    struct Frame: Equatable {
        var kind: AttachFrame
        var payload: [UInt8]
        var text: String { String(decoding: payload, as: UTF8.self) }
    }

    private let socket: Descriptor
    private let deadline: Deadline
    private var buffer: [UInt8] = []
    /// Bytes of input that may be sent.
    private(set) var credit = AttachFrame.inputCredit_bytes

    /// Connects; sends `hello` unless the program is nil.
    init(
        _ address: String, program: UInt64?, token: [UInt8] = ProgramHarness.token, mode: AttachMode = .streams,
        limit: Duration = .seconds(30)
    ) throws {
        deadline = .after(limit)
        let raw = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        if raw < 0 { throw KernelError("socket") }
        socket = Descriptor(taking: raw)
        guard let port = FabricAddress(address)?.port else { throw HarnessError.failed(address) }
        var peer = sockaddr_in()
        peer.sin_family = sa_family_t(AF_INET)
        peer.sin_port = port.bigEndian
        peer.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        let result = withUnsafePointer(to: &peer) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(raw, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        if result < 0 { throw KernelError("connect") }
        if let program {
            try send(.hello, withUnsafeBytes(of: program.littleEndian) { Array($0) } + token + [mode.rawValue])
        }
    }

    func send(_ kind: AttachFrame, _ payload: [UInt8] = []) throws {
        try send(raw: [kind.rawValue] + withUnsafeBytes(of: UInt32(payload.count).littleEndian) { Array($0) } + payload)
    }

    func send(raw bytes: [UInt8]) throws {
        var done = 0
        while done < bytes.count {
            let count = bytes.withUnsafeBytes {
                Glibc.send(socket.raw, $0.baseAddress! + done, bytes.count - done, Int32(MSG_NOSIGNAL))
            }
            if count <= 0 { throw KernelError("send") }
            done += count
        }
    }

    /// Sends input within the credit, all of it, and its end.
    func sendInput(_ bytes: [UInt8]) throws {
        var done = 0
        while done < bytes.count {
            while credit == 0 { _ = try next() }
            let count = min(credit, bytes.count - done, AttachFrame.payloadBytes_max)
            try send(.standardInput, Array(bytes[done..<done + count]))
            credit -= count
            done += count
        }
        try send(.standardInput)
    }

    /// The next frame; nil at the end of the connection.
    func next() throws -> Frame? {
        while true {
            if buffer.count >= AttachFrame.headerBytes {
                let length = buffer[1..<5].reversed().reduce(0) { $0 << 8 | Int($1) }
                let end = AttachFrame.headerBytes + length
                if buffer.count >= end {
                    guard let kind = AttachFrame(rawValue: buffer[0]) else { throw HarnessError.failed("frame kind") }
                    let frame = Frame(kind: kind, payload: Array(buffer[AttachFrame.headerBytes..<end]))
                    buffer.removeFirst(end)
                    if kind == .inputCredit { credit += frame.payload.reversed().reduce(0) { $0 << 8 | Int($1) } }
                    return frame
                }
            }
            if try !fill() { return nil }
        }
    }

    private func fill() throws -> Bool {
        var waited = pollfd(fd: socket.raw, events: Int16(POLLIN), revents: 0)
        while poll(&waited, 1, deadline.pollMilliseconds) < 0, errno == EINTR {}
        if waited.revents == 0 { throw HarnessError.deadline("attach frame") }
        var part = [UInt8](repeating: 0, count: 65536)
        let count = recv(socket.raw, &part, part.count, 0)
        if count <= 0 { return false }
        buffer.append(contentsOf: part.prefix(count))
        return true
    }

    /// Both streams until `exit`.
    func finish() throws -> (output: String, error: String, exit: AttachExit) {
        var output: [UInt8] = []
        var error: [UInt8] = []
        while let frame = try next() {
            switch frame.kind {
            case .standardOutput: output += frame.payload
            case .standardError: error += frame.payload
            case .exit:
                guard let exit = frame.payload.withUnsafeBytes({ AttachExit(decoding: $0) }) else {
                    throw HarnessError.failed("exit frame")
                }
                return (String(decoding: output, as: UTF8.self), String(decoding: error, as: UTF8.self), exit)
            case .welcome, .inputCredit: break
            default: throw HarnessError.failed("unexpected frame \(frame.kind): \(frame.text)")
            }
        }
        throw HarnessError.failed("the connection ended without an exit frame")
    }

    /// Reads until standard output has said `text`.
    func await(output text: String) throws {
        var output = ""
        while !output.contains(text) {
            guard let frame = try next() else { throw HarnessError.failed("no '\(text)' in '\(output)'") }
            if frame.kind == .standardOutput { output += frame.text }
        }
    }
}
