/// One life of a node: random and never zero, new at each start of a daemon, so that a restarted component is never taken for
/// its predecessor.
public struct NodeID: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    public let rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
    public static func random() -> NodeID { NodeID(rawValue: .random(in: 1 ... .max)) }
    public var description: String { String(rawValue, radix: 16) }
}

/// A submitted program with all its processes, numbered by the manager from 1 and never reused within a rack.
public struct ProgramID: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    public let rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
    public var description: String { String(rawValue) }
}

/// The hardware component that a daemon emulates.
public enum ComponentKind: UInt8, Sendable, CaseIterable, Codable {
    case manager = 0
    case processor = 1
    case memory = 2
    case storage = 3

    /// The word in names (`memory0`), in tables and in JSON.
    public var word: String {
        switch self {
        case .manager: "manager"
        case .processor: "processor"
        case .memory: "memory"
        case .storage: "storage"
        }
    }
}

/// A remote procedure, as the immediate of a write-with-immediate carries it. One number space for the whole rack; 0 is invalid.
public struct FunctionID: RawRepresentable, Hashable, Sendable {
    public let rawValue: UInt16
    @inlinable public init(rawValue: UInt16) { self.rawValue = rawValue }
}

/// What a call answers beside its payload. Values below 4096 other than those named are Linux error numbers.
public struct Status: RawRepresentable, Hashable, Sendable {
    public let rawValue: Int32
    @inlinable public init(rawValue: Int32) { self.rawValue = rawValue }

    public static let ok = Status(rawValue: 0)
    /// The message does not decode, or a length, an offset or an id in it is out of range.
    public static let malformed = Status(rawValue: 4096)
    /// The function is not registered at the peer.
    public static let noFunction = Status(rawValue: 4097)
    /// The peer is gone; every later call to it answers the same.
    public static let peerLost = Status(rawValue: 4098)
    /// No answer before the deadline. The call may or may not have been executed.
    public static let timedOut = Status(rawValue: 4099)
    /// The message is larger than the function or the ring allows.
    public static let tooLarge = Status(rawValue: 4100)
    /// A remote access was refused: bad key, out of bounds or wrong rights.
    public static let accessRefused = Status(rawValue: 4101)
    /// The component has no room left.
    public static let noSpace = Status(rawValue: 4102)
    /// The caller is not registered, or its lease has run out.
    public static let fenced = Status(rawValue: 4103)
    /// The named thing does not exist.
    public static let notFound = Status(rawValue: 4104)
    /// The named thing exists already.
    public static let exists = Status(rawValue: 4105)
    /// The node is shutting down, or a resource that the call needs is used up for the moment.
    public static let busy = Status(rawValue: 4106)

    /// A Linux error number, positive.
    @inlinable public static func system(_ number: Int32) -> Status { Status(rawValue: number) }
    @inlinable public var isOK: Bool { rawValue == 0 }
    /// The Linux error number, where it is one.
    @inlinable public var errorNumber: Int32? { rawValue > 0 && rawValue < 4096 ? rawValue : nil }
}
