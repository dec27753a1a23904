import Glibc
import Kernel

/// Sends bytes to the API and reads what comes until the end; no client stands in between. With `hangsUp` the request's
/// end is the end of what is sent.
func exchange(_ api: String, _ request: String, body: [UInt8] = [], hangsUp: Bool = false) async throws -> String {
    try await blocking {
        let port = UInt16(api.split(separator: ":").last ?? "") ?? 0
        let connection = Descriptor(
            taking: socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var limit = timeval(tv_sec: 10, tv_usec: 0)
        setsockopt(connection.raw, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(connection.raw, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        if result < 0 { throw KernelError("connect") }
        let bytes = Array(request.utf8) + body
        var sent = 0
        while sent < bytes.count {
            let count = bytes[sent...].withUnsafeBytes {
                send(connection.raw, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            // A server that refuses early need not read the rest.
            if count <= 0 { break }
            sent += count
        }
        if hangsUp { shutdown(connection.raw, Int32(SHUT_WR)) }
        var answer: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            let count = recv(connection.raw, &buffer, buffer.count, 0)
            if count <= 0 { break }
            answer += buffer[..<count]
        }
        return String(decoding: answer, as: UTF8.self)
    }
}
