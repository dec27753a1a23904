import CLite
import Kernel

/// What a handle, or a user, may do with a region.
public struct LiteRights: OptionSet, Sendable {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    public static let read = LiteRights(rawValue: LITE_READ.rawValue)
    public static let write = LiteRights(rawValue: LITE_WRITE.rawValue)
    public static let admin = LiteRights(rawValue: LITE_ADMIN.rawValue)
    public static let all: LiteRights = [.read, .write, .admin]
}

/// A mapped region of this session (LMR handle).
public struct LiteRegion: Hashable, Sendable {
    public let handle: UInt64
    /// Bytes.
    public let count: UInt64
}

extension LiteSession {
    func allocate(_ nodes: UnsafeBufferPointer<UInt64>, _ bytes: UInt64, _ handle: inout UInt64) -> Int32 {
        guard (1...Int(LITE_PIECES_MAX)).contains(nodes.count), bytes > 0 else { return LITE_EINVAL.code }
        var value: UInt64 = 0
        let status = run(LITE_OP_ALLOCATE, bytes: nodes.count * 8) { submission, data in
            for index in 0..<nodes.count {
                data.storeBytes(of: nodes[index], toByteOffset: index * 8, as: UInt64.self)
            }
            submission.count = UInt64(nodes.count)
            submission.operand = bytes
        } collect: { outcome, _ in
            value = outcome.value
        }
        if status >= 0 { handle = value }
        return status
    }

    /// An operation on a handle with two numbers.
    func manage(_ opcode: lite_opcode, _ handle: UInt64, _ first: UInt64 = 0, _ second: UInt64 = 0) -> Int32 {
        run(opcode, bytes: 0) { submission, _ in
            submission.handle = handle
            submission.operand = first
            submission.operand2 = second
        }
    }

    /// Takes zeroed memory, on this node or in equal parts on the given ones; 0 stands for this node.
    public func malloc(_ bytes: UInt64, on nodes: [UInt64] = [0]) throws(LiteFailure) -> LiteRegion {
        var handle: UInt64 = 0
        try LiteFailure.check(nodes.withUnsafeBufferPointer { allocate($0, bytes, &handle) })
        return LiteRegion(handle: handle, count: bytes)
    }

    /// Gives the memory back, for everybody.
    public func free(_ region: LiteRegion) throws(LiteFailure) {
        try LiteFailure.check(manage(LITE_OP_FREE, region.handle))
    }

    /// Gives the region a name, by which others map it and with which it outlives this program.
    public func name(_ region: LiteRegion, _ name: String) throws(LiteFailure) {
        try LiteFailure.check(runNamed(LITE_OP_NAME, name, fill: { $0.handle = region.handle }))
    }

    /// Maps the region of that name for the given rights.
    public func map(_ name: String, _ rights: LiteRights = [.read, .write]) throws(LiteFailure) -> LiteRegion {
        var handle: UInt64 = 0
        var count: UInt64 = 0
        try LiteFailure.check(
            runNamed(LITE_OP_MAP, name) {
                $0.operand = UInt64(rights.rawValue)
            } collect: {
                handle = $0.value
                count = $0.count
            })
        return LiteRegion(handle: handle, count: count)
    }

    public func unmap(_ region: LiteRegion) throws(LiteFailure) {
        try LiteFailure.check(manage(LITE_OP_UNMAP, region.handle))
    }

    /// Grants rights to a user (nil: everybody) in place of those that it had.
    public func grant(_ region: LiteRegion, to user: UInt32?, _ rights: LiteRights) throws(LiteFailure) {
        try LiteFailure.check(
            manage(LITE_OP_GRANT, region.handle, UInt64(user ?? .max), UInt64(rights.rawValue)))
    }

    /// Takes rights from a user (nil: everybody), also from what is mapped.
    public func revoke(_ region: LiteRegion, from user: UInt32?, _ rights: LiteRights) throws(LiteFailure) {
        try LiteFailure.check(
            manage(LITE_OP_REVOKE, region.handle, UInt64(user ?? .max), UInt64(rights.rawValue)))
    }
}
