import Glibc
import Kernel
import ManagementAPI
import Wire

/// The connection to a processor that carries a program's streams: connected, with the greeting ready to be sent.
struct AttachConnection: ~Copyable {
    let socket: Descriptor
    /// The first frame.
    let hello: [UInt8]

    init(_ attachment: Attachment, program: UInt64, mode: AttachMode) throws(CommandFailure) {
        guard let colon = attachment.address.lastIndex(of: ":"),
            let port = UInt16(attachment.address[attachment.address.index(after: colon)...]),
            let token = Self.bytes(hexadecimal: attachment.token), token.count == 16
        else { throw CommandFailure("the manager names no usable way to the program's streams") }
        let host = attachment.address[..<colon].filter { $0 != "[" && $0 != "]" }
        socket = try Self.connect(host: host, port: port, address: attachment.address)
        var payload = withUnsafeBytes(of: program.littleEndian) { Array($0) }
        payload += token
        payload.append(mode.rawValue)
        hello = FrameEncoder.frame(.hello, payload)
    }

    private static func connect(host: String, port: UInt16, address: String) throws(CommandFailure) -> Descriptor {
        do {
            return try StreamSocket.connect(host: host, port: port, until: .after(.seconds(5)))
        } catch {
            throw CommandFailure("cannot reach the processor at \(address): \(error)")
        }
    }

    static func bytes(hexadecimal text: String) -> [UInt8]? {
        let digits = text.compactMap(\.hexDigitValue)
        if digits.count != text.count || digits.count % 2 != 0 { return nil }
        return stride(from: 0, to: digits.count, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
    }
}

/// Frames as bytes.
enum FrameEncoder {
    static func frame(_ kind: AttachFrame, _ payload: [UInt8] = []) -> [UInt8] {
        [kind.rawValue] + withUnsafeBytes(of: UInt32(payload.count).littleEndian) { Array($0) } + payload
    }
}
