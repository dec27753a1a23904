import Glibc
import Kernel

/// One HTTP/1.1 exchange over a connection of its own (RFC 9112). It speaks to the manager only, on loopback: no TLS,
/// no redirects, no proxies. A client without a framework starts in a few milliseconds.
struct HTTPExchange {
    struct Response: Equatable {
        var status: Int
        var body: [UInt8]
    }

    /// `HOST:PORT`, also the Host field.
    let address: String
    let host: String
    let port: UInt16

    static let body_max = 64 << 20

    /// nil when the address is not `HOST:PORT` or `[IPV6]:PORT`.
    init?(address: String) {
        guard let colon = address.lastIndex(of: ":"), let port = UInt16(address[address.index(after: colon)...]) else {
            return nil
        }
        var host = address[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() }
        if host.isEmpty || host.contains(where: { $0.isWhitespace || $0 == "/" || $0 == "@" }) { return nil }
        self.address = address
        self.host = String(host)
        self.port = port
    }

    /// Sends a request and reads the whole answer. `path` is already percent-encoded.
    func perform(_ method: String, _ path: String, body: [UInt8]? = nil, until deadline: Deadline)
        throws(ManagementError) -> Response
    {
        let socket = try connect(until: min(deadline, .after(.seconds(5))))
        var head = "\(method) \(path) HTTP/1.1\r\nHost: \(address)\r\nConnection: close\r\nAccept: application/json\r\n"
        if let body { head += "Content-Type: application/json\r\nContent-Length: \(body.count)\r\n" }
        head += "\r\n"
        let request = Array(head.utf8) + (body ?? [])
        // A server that refuses early may close before it has read everything: its answer counts.
        let isSent = try send(request, to: socket, until: deadline)
        var parser = HTTPResponseParser()
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = buffer.withUnsafeMutableBytes { recv(socket.raw, $0.baseAddress, $0.count, 0) }
            if count > 0 {
                do {
                    if let response = try parser.append(buffer[..<count]) { return response }
                } catch {
                    throw .badAnswer(address: address, reason: error.reason)
                }
            } else if count == 0 {
                if let response = parser.end() { return response }
                throw .unreachable(
                    address: address, reason: isSent ? "it closed the connection" : "connection reset by peer")
            } else if errno == EAGAIN || errno == EINTR {
                try wait(for: POLLIN, on: socket, until: deadline)
            } else {
                throw .unreachable(address: address, reason: Self.text(errno))
            }
        }
    }

    private func connect(until deadline: Deadline) throws(ManagementError) -> Descriptor {
        do {
            return try StreamSocket.connect(host: host, port: port, until: deadline)
        } catch {
            throw .unreachable(address: address, reason: error.description)
        }
    }

    private func send(_ request: [UInt8], to socket: borrowing Descriptor, until deadline: Deadline)
        throws(ManagementError) -> Bool
    {
        var sent = 0
        while sent < request.count {
            let count = request.withUnsafeBytes {
                Glibc.send(socket.raw, $0.baseAddress! + sent, $0.count - sent, Int32(MSG_NOSIGNAL))
            }
            if count > 0 {
                sent += count
            } else if errno == EAGAIN || errno == EINTR {
                try wait(for: POLLOUT, on: socket, until: deadline)
            } else if errno == EPIPE || errno == ECONNRESET {
                return false
            } else {
                throw .unreachable(address: address, reason: Self.text(errno))
            }
        }
        return true
    }

    private func wait(for event: Int32, on socket: borrowing Descriptor, until deadline: Deadline)
        throws(ManagementError)
    {
        var watched = pollfd(fd: socket.raw, events: Int16(event), revents: 0)
        let ready = poll(&watched, 1, deadline.pollMilliseconds)
        if ready == 0 { throw .unreachable(address: address, reason: "it does not answer") }
    }

    private static func text(_ number: Int32) -> String {
        let text = KernelError.text(number)
        return text.prefix(1).lowercased() + text.dropFirst()
    }
}

/// Takes an HTTP response apart as its bytes arrive.
struct HTTPResponseParser {
    struct Malformed: Error {
        let reason: String
    }
    private enum Framing {
        case length(Int)
        case chunked
        case untilEnd
    }

    private static let head_max = 64 << 10
    private var bytes: [UInt8] = []
    private var head: (status: Int, framing: Framing, bodyStart: Int)?

    /// Adds bytes; answers the response once it is complete.
    mutating func append(_ more: ArraySlice<UInt8>) throws(Malformed) -> HTTPExchange.Response? {
        bytes += more
        if bytes.count > HTTPExchange.body_max + Self.head_max { throw Malformed(reason: "its answer is too large") }
        while head == nil {
            guard let end = bytes.firstRange(of: Array("\r\n\r\n".utf8)) else {
                if bytes.count > Self.head_max { throw Malformed(reason: "it does not speak HTTP") }
                return nil
            }
            let parsed = try Self.parseHead(bytes[..<end.lowerBound])
            // An interim answer (100 Continue) precedes the real one.
            if (100..<200).contains(parsed.status) {
                bytes.removeSubrange(..<end.upperBound)
            } else {
                head = (parsed.status, parsed.framing, end.upperBound)
            }
        }
        guard let head else { return nil }
        switch head.framing {
        case .length(let length):
            guard bytes.count - head.bodyStart >= length else { return nil }
            return .init(status: head.status, body: Array(bytes[head.bodyStart..<head.bodyStart + length]))
        case .chunked:
            return try Self.unchunk(bytes[head.bodyStart...]).map { .init(status: head.status, body: $0) }
        case .untilEnd: return nil
        }
    }

    /// The connection has ended; answers the response if that is what completes it.
    func end() -> HTTPExchange.Response? {
        guard let head, case .untilEnd = head.framing else { return nil }
        return .init(status: head.status, body: Array(bytes[head.bodyStart...]))
    }

    private static func parseHead(_ head: ArraySlice<UInt8>) throws(Malformed) -> (status: Int, framing: Framing) {
        let lines = String(decoding: head, as: UTF8.self).split(separator: "\r\n", omittingEmptySubsequences: false)
        let words = lines[0].split(separator: " ", maxSplits: 2)
        guard words.count >= 2, words[0].hasPrefix("HTTP/1."), let status = Int(words[1]), (100..<600).contains(status)
        else { throw Malformed(reason: "it does not speak HTTP") }
        if status == 204 || status == 304 { return (status, .length(0)) }
        var framing = Framing.untilEnd
        for line in lines.dropFirst() {
            guard let colon = line.firstIndex(of: ":") else { continue }
            let value = line[line.index(after: colon)...].drop { $0 == " " || $0 == "\t" }
            switch line[..<colon].lowercased() {
            case "content-length":
                guard let length = Int(value), (0...HTTPExchange.body_max).contains(length) else {
                    throw Malformed(reason: "its answer has a length of \(value)")
                }
                if case .untilEnd = framing { framing = .length(length) }
            case "transfer-encoding":
                if value.lowercased() != "chunked" { throw Malformed(reason: "its answer is encoded as \(value)") }
                framing = .chunked
            default: break
            }
        }
        return (status, framing)
    }

    /// The body, or nil while chunks are missing.
    private static func unchunk(_ bytes: ArraySlice<UInt8>) throws(Malformed) -> [UInt8]? {
        var body: [UInt8] = []
        var rest = bytes
        let lineEnd = Array("\r\n".utf8)
        while let end = rest.firstRange(of: lineEnd) {
            let digits = rest[..<end.lowerBound].prefix { $0 != UInt8(ascii: ";") }
            guard let size = Int(String(decoding: digits, as: UTF8.self), radix: 16),
                (0...HTTPExchange.body_max).contains(size)
            else { throw Malformed(reason: "its answer is cut into malformed chunks") }
            rest = rest[end.upperBound...]
            // Trailer fields are of no interest, and the connection ends here: nothing needs to be skipped.
            if size == 0 { return body }
            guard rest.count >= size + 2 else { return nil }
            body += rest.prefix(size)
            rest = rest.dropFirst(size + 2)
        }
        return nil
    }
}
