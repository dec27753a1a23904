import CLinux
import Glibc
import Kernel
import Wire

/// What a program is started with. All paths are absolute; those other than `root` are inside the tree.
public struct SandboxPlan: Sendable {
    /// The directory, in the daemon's mount namespace, that becomes the program's root.
    public var root: String
    /// How messages call the tree, e.g. `storage0`.
    public var rootName: String
    public var workingDirectory: String
    public var user: UInt32
    public var group: UInt32
    public var groups: [UInt32]
    /// As `ByteText`, like the environment and the working directory.
    public var arguments: [String]
    /// `KEY=VALUE` each.
    public var environment: [String]
    /// The system call filter: `struct sock_filter`, 8 bytes an instruction.
    public var filter: [UInt8]
    /// Size of the private /tmp in bytes; 0: half of the host's memory.
    public var temporaryBytes: UInt64 = 0
    /// A file of the daemon's that is mounted on /proc/meminfo; empty: none.
    public var memoryInformation = ""
    /// The streams are a terminal of the sandbox of this size; nil: the descriptors that are handed over.
    public var terminal: TerminalSize?
    /// Where it may run, as sched_setaffinity(2) has it; empty: wherever the daemon may.
    public var processors: [UInt64] = []

    public init(
        root: String, rootName: String, workingDirectory: String, user: UInt32, group: UInt32, groups: [UInt32],
        arguments: [String], environment: [String], filter: [UInt8]
    ) {
        self.root = root
        self.rootName = rootName
        self.workingDirectory = workingDirectory
        self.user = user
        self.group = group
        self.groups = groups
        self.arguments = arguments
        self.environment = environment
        self.filter = filter
    }

    /// What its sandbox is prepared with.
    var preparation: SandboxPreparation { SandboxPreparation(root: root, temporaryBytes: temporaryBytes) }

    /// The part of the start message that travels as a memory file; its layout is at `lego_sandbox_start`.
    func payload() throws(SandboxFailure) -> [UInt8] {
        var bytes = filter
        for group in groups { withUnsafeBytes(of: group.littleEndian) { bytes.append(contentsOf: $0) } }
        for text in [workingDirectory] + arguments + environment {
            if text.utf8.contains(0) {
                throw SandboxFailure(
                    "an argument, environment variable or path of the program contains a zero byte; remove it")
            }
            bytes.append(contentsOf: ByteText.bytes(of: text))
            bytes.append(0)
        }
        if bytes.count > LEGO_SANDBOX_PAYLOAD_BYTES_MAX {
            throw SandboxFailure("arguments and environment take \(bytes.count) bytes; at most 64 MiB are allowed")
        }
        return bytes
    }

    func header(payloadBytes: Int, setup: Duration) -> lego_sandbox_start {
        var header = lego_sandbox_start()
        header.magic = UInt32(LEGO_SANDBOX_MAGIC)
        header.payload_bytes = UInt32(truncatingIfNeeded: payloadBytes)
        header.uid = user
        header.gid = group
        header.group_count = UInt32(truncatingIfNeeded: groups.count)
        header.filter_count = UInt32(truncatingIfNeeded: filter.count / MemoryLayout<UInt64>.size)
        header.argument_count = UInt32(truncatingIfNeeded: arguments.count)
        header.environment_count = UInt32(truncatingIfNeeded: environment.count)
        header.has_memory = memoryInformation.isEmpty ? 0 : 1
        header.setup_ms = UInt32(clamping: setup.components.seconds * 1000)
        if let terminal {
            header.has_terminal = 1
            header.terminal_rows = terminal.rows
            header.terminal_columns = terminal.columns
        }
        withUnsafeMutableBytes(of: &header.processors) { words in
            for (index, word) in processors.prefix(Int(LEGO_SANDBOX_PROCESSOR_WORDS)).enumerated() {
                words.storeBytes(of: word, toByteOffset: index * 8, as: UInt64.self)
            }
        }
        return header
    }
}
