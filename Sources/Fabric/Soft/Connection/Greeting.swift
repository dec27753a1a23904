import Wire

/// What an acceptor says as soon as a TCP connection to it is there.
struct AcceptorGreeting: WireMessage {
    static let magic: UInt64 = 0x4c45_474f_4641_4231  // "LEGOFAB1"
    static let version: UInt16 = 2
    static let encodedSize = 64
    static let offersSharedMemory: UInt16 = 1
    static let offersTCP: UInt16 = 2
    /// An RDMA adapter listens at the same address and port.
    static let offersVerbs: UInt16 = 4

    /// Names the device; also the name of its Unix socket.
    var instance: InstanceID
    /// The boot of its host: equal on the same host.
    var host: InstanceID
    /// Ties a Unix connection to this TCP connection.
    var nonce: InstanceID
    var offers: UInt16

    func encode(into writer: inout WireWriter) {
        writer.write(Self.magic)
        writer.write(Self.version)
        writer.write(offers)
        writer.write(UInt32(0))
        for word in [instance.high, instance.low, host.high, host.low, nonce.high, nonce.low] { writer.write(word) }
    }
}

extension AcceptorGreeting {
    init?(from reader: inout WireReader) {
        guard reader.read(UInt64.self) == Self.magic, reader.read(UInt16.self) == Self.version else { return nil }
        offers = reader.read()
        _ = reader.read(UInt32.self)
        instance = InstanceID(high: reader.read(), low: reader.read())
        host = InstanceID(high: reader.read(), low: reader.read())
        nonce = InstanceID(high: reader.read(), low: reader.read())
        if !reader.isValid { return nil }
    }
}

/// The initiator's request, and with another magic the acceptor's answer to it.
struct PairGreeting: WireMessage {
    static let magic: UInt64 = 0x4c45_474f_5041_4952  // "LEGOPAIR"
    static let encodedSize = 128

    enum Kind: UInt16 {
        case request = 1
        case accepted = 2
        case rejected = 3
    }
    var kind: Kind
    /// The acceptor's nonce, given back.
    var nonce: InstanceID
    /// The device that speaks.
    var instance: InstanceID
    var receiveRequests_max: UInt32
    var sendRequests_max: UInt32
    /// Receives posted before this was sent.
    var posted: UInt32
    /// At most `SoftLimits.privateData_max` bytes.
    var privateData: [UInt8]

    func encode(into writer: inout WireWriter) {
        writer.write(Self.magic)
        writer.write(AcceptorGreeting.version)
        writer.write(kind.rawValue)
        for word in [nonce.high, nonce.low, instance.high, instance.low] { writer.write(word) }
        writer.write(receiveRequests_max)
        writer.write(sendRequests_max)
        writer.write(posted)
        writer.write(UInt32(privateData.count))
        privateData.withUnsafeBytes { writer.write(raw: $0) }
        for _ in privateData.count..<SoftLimits.privateData_max { writer.write(UInt8(0)) }
        writer.write(UInt32(0))
        writer.write(UInt64(0))
    }
}

extension PairGreeting {
    init?(from reader: inout WireReader) {
        guard reader.read(UInt64.self) == Self.magic, reader.read(UInt16.self) == AcceptorGreeting.version,
            let kind = Kind(rawValue: reader.read())
        else { return nil }
        self.kind = kind
        nonce = InstanceID(high: reader.read(), low: reader.read())
        instance = InstanceID(high: reader.read(), low: reader.read())
        receiveRequests_max = reader.read()
        sendRequests_max = reader.read()
        posted = reader.read()
        let count = Int(reader.read(UInt32.self))
        let bytes = reader.read(raw: SoftLimits.privateData_max)
        _ = reader.read(UInt32.self)
        _ = reader.read(UInt64.self)
        guard reader.isValid, count <= bytes.count, posted <= receiveRequests_max,
            (1...UInt32(SoftLimits.requests_max)).contains(receiveRequests_max),
            (1...UInt32(SoftLimits.requests_max)).contains(sendRequests_max)
        else { return nil }
        privateData = Array(bytes.prefix(count))
    }
}

extension WireMessage {
    /// The encoded message, for the control path.
    func encoded(_ size: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: size)
        let count = bytes.withUnsafeMutableBytes { encode(into: $0) }
        assert(count == size)
        return bytes
    }
}
