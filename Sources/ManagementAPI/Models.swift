// The manager's HTTP API: JSON over loopback. Key names are stable; `legoctl --json` prints these very objects.
//
//   POST /v1/programs                      SubmitRequest -> 201 Submitted
//   GET  /v1/programs?all=true             -> 200 [ProgramStatus]       (without `all`: running ones only)
//   GET  /v1/programs/{id}                 -> 200 ProgramStatus
//   GET  /v1/programs/{id}/stats           -> 200 ProgramStats
//   GET  /v1/programs/{id}/wait?seconds=N  -> 200 ProgramStatus once it has ended, or as it is after N (at most 30) seconds
//   GET  /v1/programs/{id}/logs            -> 200 Attachment            (where and with which token to fetch them)
//   GET  /v1/programs/{id}/streams         -> 200 Attachment            (to come back to a terminal that was left)
//   POST /v1/programs/{id}/signal          SignalRequest -> 204
//   POST /v1/programs/{id}/join            JoinRequest -> 201 Attachment (a process that has started inside the program)
//   GET  /v1/status                        -> 200 RackStatus
//   GET  /v1/fabric                        -> 200 FabricStatus
//   GET  /v1/fabric/measure?from=A&to=B    -> 200 LinkFigures           (root only; A measures its link to B)
//   POST /v1/fabric/model                  LinkModelRequest -> 204      (root only)
//   GET  /metrics                          -> 200 text for Prometheus
//   POST /v1/components/{name}/kill        -> 204                       (root only)
//
// Every error is a 4xx or 5xx with an APIFailure. The caller's identity is the owner of the connection's far end on this host.

import Wire

/// A program to run. Arguments, environment and directory are `ByteText`.
public struct SubmitRequest: Codable, Sendable, Equatable {
    public var arguments: [String]
    public var environment: [String]
    public var workingDirectory: String
    public var name: String?
    public var excacheBytes: UInt64?
    /// A user name or number. Only root may name another than itself; root that names nobody gets `nobody`.
    public var user: String?
    public var isDetached: Bool
    /// Where the user cannot enter the working directory, the program starts in / and a notice says so. Absent: false.
    public var mayStartElsewhere: Bool?
    /// The standard streams are a terminal of the program's own, of this size.
    public var terminal: TerminalSize?
    /// The most memory that it may have, local and remote.
    public var memoryBytes: UInt64?
    /// The CPUs of its processor on which it may run: `0,2-3`.
    public var processors: String?

    public init(
        arguments: [String], environment: [String], workingDirectory: String, name: String? = nil,
        excacheBytes: UInt64? = nil, user: String? = nil, isDetached: Bool = false, mayStartElsewhere: Bool? = nil,
        terminal: TerminalSize? = nil, memoryBytes: UInt64? = nil, processors: String? = nil
    ) {
        self.arguments = arguments
        self.environment = environment
        self.workingDirectory = workingDirectory
        self.name = name
        self.excacheBytes = excacheBytes
        self.user = user
        self.isDetached = isDetached
        self.mayStartElsewhere = mayStartElsewhere
        self.terminal = terminal
        self.memoryBytes = memoryBytes
        self.processors = processors
    }
}

/// A process that joins a running program, as its user. Texts are `ByteText`.
public struct JoinRequest: Codable, Sendable, Equatable {
    public var arguments: [String]
    /// `NAME=VALUE` each, in place of the program's own.
    public var environment: [String]
    /// Absent: where the program was started.
    public var workingDirectory: String?
    /// The standard streams are a terminal of its own, of this size.
    public var terminal: TerminalSize?

    public init(
        arguments: [String], environment: [String], workingDirectory: String? = nil, terminal: TerminalSize? = nil
    ) {
        self.arguments = arguments
        self.environment = environment
        self.workingDirectory = workingDirectory
        self.terminal = terminal
    }
}

/// Where to attach to a program's streams or fetch its log.
public struct Attachment: Codable, Sendable, Equatable {
    /// `HOST:PORT` of the processor.
    public var address: String
    /// 32 hexadecimal digits.
    public var token: String

    public init(address: String, token: String) {
        self.address = address
        self.token = token
    }
}

/// A program that has started.
public struct Submitted: Codable, Sendable, Equatable {
    public var id: UInt64
    public var processor: String
    public var attachment: Attachment
    /// Lines that the user should see, e.g. under which user the program runs.
    public var notice: String?

    public init(id: UInt64, processor: String, attachment: Attachment, notice: String? = nil) {
        self.id = id
        self.processor = processor
        self.attachment = attachment
        self.notice = notice
    }
}

/// A row of `legoctl ps`.
public struct ProgramStatus: Codable, Sendable, Equatable {
    public enum State: String, Codable, Sendable { case running, exited, lost }
    public var id: UInt64
    public var name: String
    public var state: State
    /// 0–255 once the program exited by itself.
    public var exitStatus: Int?
    /// The signal that ended it.
    public var signal: Int?
    /// Why the rack ended it.
    public var reason: String?
    public var processor: String
    /// The memory components that hold pages of it (while it runs), or held them at its end.
    public var memories: [String]
    /// The command line as submitted, as `ByteText`; its first few KiB where it is longer.
    public var command: [String]
    public var user: String

    public init(
        id: UInt64, name: String, state: State, exitStatus: Int? = nil, signal: Int? = nil, reason: String? = nil,
        processor: String, memories: [String], command: [String], user: String
    ) {
        self.id = id
        self.name = name
        self.state = state
        self.exitStatus = exitStatus
        self.signal = signal
        self.reason = reason
        self.processor = processor
        self.memories = memories
        self.command = command
        self.user = user
    }

    private enum CodingKeys: String, CodingKey {
        case id, name, state, exitStatus, signal, reason, processor, memories, command, user
    }

    /// Absent values are written as null, so that every row has the same keys.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(id, forKey: .id)
        try container.encode(name, forKey: .name)
        try container.encode(state, forKey: .state)
        try container.encode(exitStatus, forKey: .exitStatus)
        try container.encode(signal, forKey: .signal)
        try container.encode(reason, forKey: .reason)
        try container.encode(processor, forKey: .processor)
        try container.encode(memories, forKey: .memories)
        try container.encode(command, forKey: .command)
        try container.encode(user, forKey: .user)
    }
}

/// `legoctl stats ID`.
public struct ProgramStats: Codable, Sendable, Equatable {
    public var id: UInt64
    public var faults: UInt64
    public var zeroFills: UInt64
    public var remoteReadPages: UInt64
    public var remoteWritePages: UInt64
    public var evictedPages: UInt64
    public var residentBytes: UInt64
    public var peakResidentBytes: UInt64
    public var remoteBytes: UInt64
    public var peakRemoteBytes: UInt64
    public var perMemory: [String: UInt64]

    public init(
        id: UInt64, faults: UInt64, zeroFills: UInt64, remoteReadPages: UInt64, remoteWritePages: UInt64,
        evictedPages: UInt64, residentBytes: UInt64, peakResidentBytes: UInt64, remoteBytes: UInt64,
        peakRemoteBytes: UInt64, perMemory: [String: UInt64]
    ) {
        self.id = id
        self.faults = faults
        self.zeroFills = zeroFills
        self.remoteReadPages = remoteReadPages
        self.remoteWritePages = remoteWritePages
        self.evictedPages = evictedPages
        self.residentBytes = residentBytes
        self.peakResidentBytes = peakResidentBytes
        self.remoteBytes = remoteBytes
        self.peakRemoteBytes = peakRemoteBytes
        self.perMemory = perMemory
    }
}

/// `kill [-s SIGNAL] ID`.
public struct SignalRequest: Codable, Sendable, Equatable {
    public var signal: Int
    public init(signal: Int) { self.signal = signal }
}

/// `legoctl status`.
public struct RackStatus: Codable, Sendable, Equatable {
    public struct Component: Codable, Sendable, Equatable {
        public var name: String
        public var kind: String
        /// healthy | suspect | lost
        public var health: String
        public var capacityBytes: UInt64
        public var usedBytes: UInt64

        public init(name: String, kind: String, health: String, capacityBytes: UInt64, usedBytes: UInt64) {
            self.name = name
            self.kind = kind
            self.health = health
            self.capacityBytes = capacityBytes
            self.usedBytes = usedBytes
        }
    }
    public var components: [Component]
    public init(components: [Component]) { self.components = components }
}

/// Why a request was refused: one line for the user, and what a shell would exit with where the request was to run a program.
public struct APIFailure: Codable, Sendable, Equatable {
    public var reason: String
    public var exitStatus: Int?
    public init(reason: String, exitStatus: Int? = nil) {
        self.reason = reason
        self.exitStatus = exitStatus
    }
}
