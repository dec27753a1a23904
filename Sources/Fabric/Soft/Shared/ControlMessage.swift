import CLinux
import Glibc
import Kernel
import Wire

/// What the devices of two connected queue pairs on one host tell each other, over a Unix socket per pair.
struct ControlMessage {
    enum Kind: UInt32 {
        /// Asks for the memory file of a region.
        case wantRegion = 1
        /// The memory file goes along.
        case region = 2
        /// There is no such region.
        case noRegion = 3
        /// A region has been deregistered: its mapping can be given back.
        case regionGone = 4
        /// The sender has disconnected.
        case bye = 5
    }

    static let encodedSize = 8
    var kind: Kind
    var key: UInt32

    init(kind: Kind, key: UInt32) {
        self.kind = kind
        self.key = key
    }

    /// Nil when the bytes are no message.
    init?(_ bytes: ArraySlice<UInt8>) {
        let fields = bytes.withUnsafeBytes { buffer -> (Kind, UInt32)? in
            var reader = WireReader(buffer)
            guard let kind = Kind(rawValue: reader.read()) else { return nil }
            let key = reader.read(UInt32.self)
            return reader.isComplete ? (kind, key) : nil
        }
        guard let (kind, key) = fields else { return nil }
        self.init(kind: kind, key: key)
    }

    /// Sends without waiting; false when the socket is full or the peer gone. Any thread. Allocates nothing.
    func send(on socket: Int32, descriptor: Int32? = nil) -> Bool {
        withUnsafeTemporaryAllocation(byteCount: Self.encodedSize, alignment: 8) { buffer in
            var writer = WireWriter(buffer)
            writer.write(kind.rawValue)
            writer.write(key)
            var passed = descriptor ?? -1
            return lego_send_descriptors(socket, buffer.baseAddress, buffer.count, &passed, descriptor == nil ? 0 : 1)
                == buffer.count
        }
    }
}

/// A message of a sequenced-packet Unix socket with the descriptors that came with it.
struct ReceivedPacket: ~Copyable {
    enum Outcome {
        case packet
        /// Nothing there yet.
        case none
        case endOfStream
    }
    private(set) var outcome = Outcome.none
    private(set) var count = 0
    private var descriptors = InlineArray<16, Int32>(repeating: -1)

    /// Receives without waiting.
    init(from socket: Int32, into bytes: inout [UInt8]) {
        var received = 0
        var raw = (Int32(-1), Int32(-1), Int32(-1), Int32(-1), Int32(-1), Int32(-1), Int32(-1), Int32(-1))
        let result = withUnsafeMutableBytes(of: &raw) { space in
            bytes.withUnsafeMutableBytes { buffer in
                lego_receive_descriptors(
                    socket, buffer.baseAddress, buffer.count, space.baseAddress!.assumingMemoryBound(to: Int32.self), 8,
                    &received, nil, Int32(MSG_DONTWAIT))
            }
        }
        withUnsafeBytes(of: &raw) { space in
            for index in 0..<received { descriptors[index] = space.load(fromByteOffset: index * 4, as: Int32.self) }
        }
        if result > 0 {
            outcome = .packet
            count = result
        } else if result == 0 || (result != -Int(EAGAIN) && result != -Int(EINTR)) {
            outcome = .endOfStream
        }
    }

    /// Takes the descriptor at a position; nil when none came there, or it has been taken.
    mutating func take(_ index: Int) -> Descriptor? {
        let raw = descriptors[index]
        descriptors[index] = -1
        return raw < 0 ? nil : Descriptor(taking: raw)
    }

    deinit { for index in 0..<16 where descriptors[index] >= 0 { close(descriptors[index]) } }
}
