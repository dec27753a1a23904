import Fabric
import Wire

/// What two nodes tell each other in the private data of a connection: who they are, and where the other may write and read. The
/// initiator's goes with every queue pair, the acceptor's answers it. Exactly the 56 bytes that the RDMA connection manager
/// carries.
struct Greeting: Equatable {
    /// `LITE`, read as a little-endian number.
    static let magic: UInt32 = 0x4554_494c
    static let version: UInt8 = 1
    static let encodedSize = 56

    /// The acceptor's verdict; the initiator sends `ok`.
    enum Verdict: UInt8 {
        case ok = 0
        /// The initiator speaks another version; only `version` of the answer means anything.
        case version = 1
        /// The initiator is the acceptor.
        case oneself = 2
        /// The acceptor has as many peers as it can.
        case full = 3
        /// The acceptor is shutting down.
        case closing = 4
    }

    var version = Greeting.version
    /// Which of the link's queue pairs this is, from 0. Even ones carry the calls of the initiator, odd ones the acceptor's.
    var index: UInt8
    /// Queue pairs per link: what the initiator proposes, what the acceptor decides (never more).
    var pairs: UInt8
    var verdict = Verdict.ok
    var node: NodeID
    var poolAddress: UInt64
    var poolBytes: UInt64
    var messageAddress: UInt64
    var poolKey: UInt32
    /// Also names the link among those of its initiator.
    var messageKey: UInt32
    /// The sender's `MessageLayout`.
    var calls: UInt16
    /// What the receiver may do with the sender's pool.
    var poolAccess: RemoteAccess
    var messageBytes: UInt32

    func encode() -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Self.encodedSize)
        bytes.withUnsafeMutableBytes { buffer in
            var writer = WireWriter(buffer)
            writer.write(Self.magic)
            writer.write(version)
            writer.write(index)
            writer.write(pairs)
            writer.write(verdict.rawValue)
            writer.write(node.rawValue)
            writer.write(poolAddress)
            writer.write(poolBytes)
            writer.write(messageAddress)
            writer.write(poolKey)
            writer.write(messageKey)
            writer.write(calls)
            writer.write(poolAccess.rawValue)
            writer.write(UInt8(0))
            writer.write(messageBytes)
        }
        return bytes
    }

    /// Why a greeting is not accepted.
    enum Fault: Error, Equatable {
        case notLite
        case otherVersion(UInt8)
        case malformed
    }

    /// Decodes and checks every range. A device may pad private data with zeros at the end.
    init(decoding bytes: [UInt8]) throws(Fault) {
        guard bytes.count >= Self.encodedSize else { throw .notLite }
        let result = bytes.withUnsafeBytes { buffer -> Result<Greeting, Fault> in
            var reader = WireReader(UnsafeRawBufferPointer(rebasing: buffer[..<Self.encodedSize]))
            do throws(Fault) { return .success(try Greeting(from: &reader)) } catch { return .failure(error) }
        }
        self = try result.get()
    }

    private init(from reader: inout WireReader) throws(Fault) {
        if reader.read(UInt32.self) != Self.magic { throw .notLite }
        version = reader.read()
        if version != Self.version { throw .otherVersion(version) }
        index = reader.read()
        pairs = reader.read()
        guard let verdict = Verdict(rawValue: reader.read()) else { throw .malformed }
        self.verdict = verdict
        node = NodeID(rawValue: reader.read())
        poolAddress = reader.read()
        poolBytes = reader.read()
        messageAddress = reader.read()
        poolKey = reader.read()
        messageKey = reader.read()
        calls = reader.read()
        poolAccess = RemoteAccess(rawValue: reader.read())
        _ = reader.read(UInt8.self)
        messageBytes = reader.read()
        if verdict != .ok { return }
        guard node.rawValue != 0, LiteLimit.queuePairs.contains(Int(pairs)), index < pairs,
            LiteLimit.calls.contains(Int(calls)), LiteLimit.messageBytes.contains(Int(messageBytes)),
            poolAccess.isSubset(of: .all),
            !poolAddress.addingReportingOverflow(poolBytes).overflow,
            !messageAddress.addingReportingOverflow(UInt64(layout.bytes)).overflow
        else { throw .malformed }
    }

    init(
        index: Int, pairs: Int, verdict: Verdict = .ok, node: NodeID, poolAddress: UInt64, poolBytes: Int,
        poolKey: UInt32, poolAccess: RemoteAccess, messageAddress: UInt64, messageKey: UInt32, layout: MessageLayout
    ) {
        self.index = UInt8(index)
        self.pairs = UInt8(pairs)
        self.verdict = verdict
        self.node = node
        self.poolAddress = poolAddress
        self.poolBytes = UInt64(poolBytes)
        self.poolKey = poolKey
        self.poolAccess = poolAccess
        self.messageAddress = messageAddress
        self.messageKey = messageKey
        calls = UInt16(layout.calls)
        messageBytes = UInt32(layout.messageBytes)
    }

    /// The layout of the sender's message region.
    var layout: MessageLayout { MessageLayout(calls: Int(calls), messageBytes: Int(messageBytes)) }
}
