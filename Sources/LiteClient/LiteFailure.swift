import CLite

/// Why an operation failed: one of `lite.h`'s statuses, with its sentence.
public struct LiteFailure: Error, Equatable, Sendable, CustomStringConvertible {
    /// The status as C programs see it, negative.
    public let status: Int32

    public init(status: Int32) { self.status = status }
    init(_ status: lite_status) { self.status = status.rawValue }

    public var description: String { String(cString: lite_status_text(status)) }

    public static let invalid = LiteFailure(LITE_EINVAL)
    public static let noSpace = LiteFailure(LITE_ENOSPACE)
    public static let noSuchName = LiteFailure(LITE_ENOENT)
    public static let exists = LiteFailure(LITE_EEXIST)
    public static let badHandle = LiteFailure(LITE_EHANDLE)
    public static let noRight = LiteFailure(LITE_EACCESS)
    public static let outOfRange = LiteFailure(LITE_ERANGE)
    public static let nodeLost = LiteFailure(LITE_ENODE)
    public static let timedOut = LiteFailure(LITE_ETIMEDOUT)
    public static let tooLarge = LiteFailure(LITE_ETOOLARGE)
    public static let busy = LiteFailure(LITE_EBUSY)
    public static let noFunction = LiteFailure(LITE_ENOFUNCTION)
    public static let gone = LiteFailure(LITE_EGONE)
    public static let daemonLost = LiteFailure(LITE_EDAEMON)
    public static let notHeld = LiteFailure(LITE_ENOTHELD)
    public static let limit = LiteFailure(LITE_ELIMIT)

    /// Throws what a status stands for; answers those that are no error.
    @discardableResult
    @inline(__always)
    static func check(_ status: Int32) throws(LiteFailure) -> Int32 {
        if status < 0 { throw LiteFailure(status: status) }
        return status
    }
}

extension lite_status {
    /// As functions answer it.
    @inline(__always)
    var code: Int32 { rawValue }
}
