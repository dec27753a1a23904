// The manager speaks to a processor: start, signal and measure programs; the processor reports back and asks for places.

/// Starts a program. Answered by `ProcessorManagerStarted`; a start that fails answers a status and the reason in it.
public struct ManagerProcessorStart: WireMessage, Equatable {
    public var program: ProgramID
    public var name: String
    /// argv, as `ByteText`; the first is looked up in PATH of `environment` inside the program's file tree when it holds no slash.
    public var arguments: [String]
    /// `KEY=VALUE` each.
    public var environment: [String]
    /// Absolute, inside the program's file tree.
    public var workingDirectory: String
    public var user: UInt32
    public var group: UInt32
    /// Supplementary groups.
    public var groups: [UInt32]
    /// The program's share of the ExCache in bytes; 0: no limit of its own.
    public var excacheBytes: UInt64
    /// Standard streams go to a log that `legoctl logs` reads, and standard input is empty.
    public var isDetached: Bool
    /// Whoever attaches to the program's streams must show this. 16 bytes.
    public var attachToken: [UInt8]
    /// A program whose user cannot enter `workingDirectory` starts in / instead, and the answer says so.
    public var mayStartElsewhere: Bool
    /// The standard streams are a terminal of the program's own, of this size.
    public var terminal: TerminalSize?
    /// The most memory that it may have, local and remote, in bytes; 0: no limit.
    public var memoryBytes: UInt64
    /// Where it may run, a bit for each of the processor's CPUs; empty: on all.
    public var processors: [UInt64]
    /// What all memory components that the program may be placed on have together, in bytes.
    public var rackMemoryBytes: UInt64

    public init(
        program: ProgramID, name: String, arguments: [String], environment: [String], workingDirectory: String,
        user: UInt32, group: UInt32, groups: [UInt32], excacheBytes: UInt64, isDetached: Bool, attachToken: [UInt8],
        mayStartElsewhere: Bool = false, terminal: TerminalSize? = nil, memoryBytes: UInt64 = 0,
        processors: [UInt64] = [], rackMemoryBytes: UInt64 = 0
    ) {
        self.rackMemoryBytes = rackMemoryBytes
        self.terminal = terminal
        self.memoryBytes = memoryBytes
        self.processors = processors
        self.program = program
        self.name = name
        self.arguments = arguments
        self.environment = environment
        self.workingDirectory = workingDirectory
        self.user = user
        self.group = group
        self.groups = groups
        self.excacheBytes = excacheBytes
        self.isDetached = isDetached
        self.attachToken = attachToken
        self.mayStartElsewhere = mayStartElsewhere
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(program.rawValue)
        writer.write(name)
        writer.write(arguments)
        writer.write(environment)
        writer.write(workingDirectory)
        writer.write(user)
        writer.write(group)
        writer.write(UInt32(truncatingIfNeeded: groups.count))
        for group in groups { writer.write(group) }
        writer.write(excacheBytes)
        writer.write(isDetached)
        attachToken.withUnsafeBytes { writer.write(counted: $0) }
        writer.write(mayStartElsewhere)
        writer.write(terminal)
        writer.write(memoryBytes)
        writer.write(UInt32(truncatingIfNeeded: processors.count))
        for word in processors { writer.write(word) }
        writer.write(rackMemoryBytes)
    }

    public init?(from reader: inout WireReader) {
        program = ProgramID(rawValue: reader.read())
        name = reader.readString(max: WireLimit.name_max)
        arguments = reader.readStrings(maxCount: WireLimit.arguments_max, max: WireLimit.argumentBytes_max)
        environment = reader.readStrings(maxCount: WireLimit.arguments_max, max: WireLimit.argumentBytes_max)
        workingDirectory = reader.readString(max: WireLimit.path_max)
        user = reader.read()
        group = reader.read()
        let groupCount = Int(reader.read(UInt32.self))
        if groupCount > WireLimit.groups_max { return nil }
        groups = []
        for _ in 0..<groupCount { groups.append(reader.read()) }
        excacheBytes = reader.read()
        isDetached = reader.readBool()
        attachToken = Array(reader.readCounted(max: 16))
        mayStartElsewhere = reader.readBool()
        terminal = reader.readTerminal()
        memoryBytes = reader.read()
        let wordCount = Int(reader.read(UInt32.self))
        if wordCount > WireLimit.processorWords_max { return nil }
        processors = []
        for _ in 0..<wordCount { processors.append(reader.read()) }
        rackMemoryBytes = reader.read()
        if !reader.isValid || arguments.isEmpty || attachToken.count != 16 || !workingDirectory.hasPrefix("/") {
            return nil
        }
    }
}

/// The answer to a start. `reason` is one line for the user: with a status other than ok why it failed, and `exitStatus` is
/// then what a shell would answer (127: no such program, 126: cannot be executed); with ok a notice, or empty.
public struct ProcessorManagerStarted: WireMessage, Equatable {
    public var reason: String
    public var exitStatus: UInt32

    public init(reason: String, exitStatus: UInt32) {
        self.reason = reason
        self.exitStatus = exitStatus
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(reason)
        writer.write(exitStatus)
    }

    public init?(from reader: inout WireReader) {
        reason = reader.readString(max: WireLimit.reason_max)
        exitStatus = reader.read()
        if !reader.isValid { return nil }
    }
}

/// Starts a process in a running program's namespaces, as its user. Answered by `ProcessorManagerStarted`; `notFound` when
/// the program has ended.
public struct ManagerProcessorJoin: WireMessage, Equatable {
    public var program: ProgramID
    /// As in `ManagerProcessorStart`.
    public var arguments: [String]
    /// `KEY=VALUE` each, in place of the program's own.
    public var environment: [String]
    /// Absolute; empty: where the program was started.
    public var workingDirectory: String
    public var terminal: TerminalSize?
    /// Whoever attaches to its streams must show this. 16 bytes.
    public var attachToken: [UInt8]

    public init(
        program: ProgramID, arguments: [String], environment: [String], workingDirectory: String,
        terminal: TerminalSize?, attachToken: [UInt8]
    ) {
        self.program = program
        self.arguments = arguments
        self.environment = environment
        self.workingDirectory = workingDirectory
        self.terminal = terminal
        self.attachToken = attachToken
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(program.rawValue)
        writer.write(arguments)
        writer.write(environment)
        writer.write(workingDirectory)
        writer.write(terminal)
        attachToken.withUnsafeBytes { writer.write(counted: $0) }
    }

    public init?(from reader: inout WireReader) {
        program = ProgramID(rawValue: reader.read())
        arguments = reader.readStrings(maxCount: WireLimit.arguments_max, max: WireLimit.argumentBytes_max)
        environment = reader.readStrings(maxCount: WireLimit.arguments_max, max: WireLimit.argumentBytes_max)
        workingDirectory = reader.readString(max: WireLimit.path_max)
        terminal = reader.readTerminal()
        attachToken = Array(reader.readCounted(max: 16))
        if !reader.isValid || arguments.isEmpty || attachToken.count != 16 { return nil }
        if !workingDirectory.isEmpty && !workingDirectory.hasPrefix("/") { return nil }
    }
}

/// Sends a signal to the program's first process. `notFound` when it has ended. Answered by `Acknowledgement`.
public struct ManagerProcessorSignal: WireMessage, Equatable {
    public var program: ProgramID
    public var signal: UInt32

    public init(program: ProgramID, signal: UInt32) {
        self.program = program
        self.signal = signal
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(program.rawValue)
        writer.write(signal)
    }

    public init?(from reader: inout WireReader) {
        program = ProgramID(rawValue: reader.read())
        signal = reader.read()
        if !reader.isValid || signal == 0 || signal > 64 { return nil }
    }
}

/// Asks for a program's counters. Answered by `ProgramStatistics`; `notFound` when the processor does not know it (any more).
public struct ManagerProcessorStatistics: WireMessage, Equatable {
    public var program: ProgramID
    public init(program: ProgramID) { self.program = program }
    public func encode(into writer: inout WireWriter) { writer.write(program.rawValue) }
    public init?(from reader: inout WireReader) {
        program = ProgramID(rawValue: reader.read())
        if !reader.isValid { return nil }
    }
}

/// Bytes of a program that one memory component holds.
public struct MemoryShare: Equatable, Sendable {
    public var memory: String
    public var bytes: UInt64
    public init(memory: String, bytes: UInt64) {
        self.memory = memory
        self.bytes = bytes
    }
}

/// A program's counters since its start (events), and now or at most (bytes).
public struct ProgramStatistics: WireMessage, Equatable {
    /// Faults that the processor served: missing pages and first writes to clean ones.
    public var faults: UInt64 = 0
    /// Pages that were made locally, without network (LegoOS's p-local).
    public var zeroFills: UInt64 = 0
    public var remoteReadPages: UInt64 = 0
    public var remoteWritePages: UInt64 = 0
    public var evictedPages: UInt64 = 0
    public var residentBytes: UInt64 = 0
    public var peakResidentBytes: UInt64 = 0
    public var remoteBytes: UInt64 = 0
    public var peakRemoteBytes: UInt64 = 0
    /// Every memory component that holds pages of the program now.
    public var perMemory: [MemoryShare] = []

    public init() {}

    public func encode(into writer: inout WireWriter) {
        for value in [
            faults, zeroFills, remoteReadPages, remoteWritePages, evictedPages, residentBytes, peakResidentBytes,
            remoteBytes, peakRemoteBytes,
        ] { writer.write(value) }
        writer.write(UInt32(truncatingIfNeeded: perMemory.count))
        for share in perMemory {
            writer.write(share.memory)
            writer.write(share.bytes)
        }
    }

    public init?(from reader: inout WireReader) {
        faults = reader.read()
        zeroFills = reader.read()
        remoteReadPages = reader.read()
        remoteWritePages = reader.read()
        evictedPages = reader.read()
        residentBytes = reader.read()
        peakResidentBytes = reader.read()
        remoteBytes = reader.read()
        peakRemoteBytes = reader.read()
        let count = Int(reader.read(UInt32.self))
        if count > WireLimit.components_max { return nil }
        for _ in 0..<count {
            perMemory.append(
                MemoryShare(memory: reader.readString(max: WireLimit.name_max), bytes: reader.read()))
        }
        if !reader.isValid { return nil }
    }
}

/// Asks where a program's vRegion (1 GiB of its address space, LegoOS §4.4) shall live. Answered by `ManagerProcessorPlace`;
/// `noSpace` when no memory component has room.
public struct ProcessorManagerPlace: WireMessage, Equatable {
    public var program: ProgramID
    /// Memory components that refused the program for want of room, or that the processor cannot reach.
    public var excluded: [NodeID]

    public init(program: ProgramID, excluded: [NodeID]) {
        self.program = program
        self.excluded = excluded
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(program.rawValue)
        writer.write(UInt32(truncatingIfNeeded: excluded.count))
        for node in excluded { writer.write(node.rawValue) }
    }

    public init?(from reader: inout WireReader) {
        program = ProgramID(rawValue: reader.read())
        let count = Int(reader.read(UInt32.self))
        if count > WireLimit.components_max { return nil }
        excluded = []
        for _ in 0..<count { excluded.append(NodeID(rawValue: reader.read())) }
        if !reader.isValid { return nil }
    }
}

public struct ManagerProcessorPlace: WireMessage, Equatable {
    public var memory: NodeID
    public var name: String
    public var liteAddress: String

    public init(memory: NodeID, name: String, liteAddress: String) {
        self.memory = memory
        self.name = name
        self.liteAddress = liteAddress
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(memory.rawValue)
        writer.write(name)
        writer.write(liteAddress)
    }

    public init?(from reader: inout WireReader) {
        memory = NodeID(rawValue: reader.read())
        name = reader.readString(max: WireLimit.name_max)
        liteAddress = reader.readString(max: WireLimit.address_max)
        if !reader.isValid { return nil }
    }
}

/// A processor reports what became of a program, and while it runs, with each heartbeat, where its memory is. Answered by
/// `Acknowledgement`; repeated until acknowledged, so it must be idempotent.
public struct ProcessorManagerReport: WireMessage, Equatable {
    public enum State: UInt8, Sendable {
        case running = 0
        case exited = 1
        /// A component that it depended on was lost.
        case lost = 2
    }
    public var program: ProgramID
    public var state: State
    /// The first process's exit status (0–255), or -1 when a signal ended it or it still runs.
    public var exitStatus: Int32
    /// The signal that ended it, or 0.
    public var signal: UInt32
    /// One line: why the rack ended the program; empty when it ended by itself.
    public var reason: String
    public var statistics: ProgramStatistics

    public init(
        program: ProgramID, state: State, exitStatus: Int32, signal: UInt32, reason: String,
        statistics: ProgramStatistics
    ) {
        self.program = program
        self.state = state
        self.exitStatus = exitStatus
        self.signal = signal
        self.reason = reason
        self.statistics = statistics
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(program.rawValue)
        writer.write(state.rawValue)
        writer.write(exitStatus)
        writer.write(signal)
        writer.write(reason)
        statistics.encode(into: &writer)
    }

    public init?(from reader: inout WireReader) {
        program = ProgramID(rawValue: reader.read())
        guard let state = State(rawValue: reader.read()) else { return nil }
        self.state = state
        exitStatus = reader.read()
        signal = reader.read()
        reason = reader.readString(max: WireLimit.reason_max)
        guard let statistics = ProgramStatistics(from: &reader) else { return nil }
        self.statistics = statistics
        if !reader.isValid { return nil }
    }
}
