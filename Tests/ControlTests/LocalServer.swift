import Glibc
import Kernel
import Synchronization
import Testing

/// Listens on a loopback port and hands each connection to `serve` on a thread of its own, one after the other. Every
/// connection has a receive limit, so that a client that hangs fails the test instead of stopping it.
final class LocalServer: Sendable {
    let address: String
    private let listener: Int32
    private let thread: KernelThread

    init(_ serve: @escaping @Sendable (Connection) -> Void) throws {
        let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let isListening = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(listener, $0, length) == 0 && listen(listener, 16) == 0 && getsockname(listener, $0, &length) == 0
            }
        }
        guard listener >= 0, isListening else { throw KernelError("listen") }
        self.listener = listener
        self.address = "127.0.0.1:\(UInt16(bigEndian: address.sin_port))"
        thread = try KernelThread(name: "test-server") {
            while true {
                let socket = accept(listener, nil, nil)
                if socket < 0 { return }
                serve(Connection(socket))
            }
        }
    }

    /// Ends the acceptance; a connection that is being served is finished first.
    func stop() {
        shutdown(listener, Int32(SHUT_RDWR))
        thread.join()
        close(listener)
    }

    /// Runs `body` with a server.
    static func with(
        _ serve: @escaping @Sendable (Connection) -> Void, _ body: (LocalServer) throws -> Void
    ) throws {
        let server = try LocalServer(serve)
        defer { server.stop() }
        try body(server)
    }
}

/// One accepted connection; closed when nobody holds it any more.
final class Connection: Sendable {
    let socket: Int32

    init(_ socket: Int32) {
        self.socket = socket
        var limit = timeval(tv_sec: 20, tv_usec: 0)
        setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { close(socket) }

    /// Exactly so many bytes; nil at the end of the stream or the limit.
    func read(_ count: Int) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: count)
        var got = 0
        while got < count {
            let more = bytes.withUnsafeMutableBytes { recv(socket, $0.baseAddress! + got, count - got, 0) }
            if more <= 0 { return nil }
            got += more
        }
        return bytes
    }

    /// False when the other side is gone or does not read.
    @discardableResult
    func write(_ bytes: [UInt8]) -> Bool {
        var sent = 0
        while sent < bytes.count {
            let more = bytes.withUnsafeBytes {
                send(socket, $0.baseAddress! + sent, bytes.count - sent, Int32(MSG_NOSIGNAL))
            }
            if more <= 0 { return false }
            sent += more
        }
        return true
    }

    /// Reads a request's head and body; answers the request line and the body.
    func readRequest() -> (line: String, body: [UInt8])? {
        var head: [UInt8] = []
        while !head.suffix(4).elementsEqual("\r\n\r\n".utf8) {
            guard let byte = read(1), head.count < 64 << 10 else { return nil }
            head += byte
        }
        let lines = String(decoding: head, as: UTF8.self).split(separator: "\r\n")
        let length = lines.compactMap { line -> Int? in
            line.lowercased().hasPrefix("content-length:") ? Int(line.split(separator: " ")[1]) : nil
        }
        guard let body = read(length.first ?? 0) else { return nil }
        return (String(lines[0]), body)
    }

    func respond(_ status: Int, _ body: String) {
        write(Array("HTTP/1.1 \(status) X\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)".utf8))
    }
}
