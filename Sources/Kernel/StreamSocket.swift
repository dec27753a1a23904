import CLinux
import Glibc

/// Why a host could not be reached: one line without the host.
public struct ConnectError: Error, Equatable, CustomStringConvertible {
    public let description: String
    /// The error number where a system call failed, else 0.
    public let number: Int32

    init(_ description: String, number: Int32 = 0) {
        self.description = description
        self.number = number
    }
}

/// TCP connections of the control plane.
public enum StreamSocket {
    /// Connects to the first address of `host` that answers. The socket is non-blocking and close-on-exec; small writes
    /// are sent at once. Blocks until the deadline; a name that the resolver does not know may take its own time.
    public static func connect(host: String, port: UInt16, until deadline: Deadline) throws(ConnectError) -> Descriptor
    {
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        hints.ai_flags = AI_NUMERICSERV | AI_ADDRCONFIG
        var list: UnsafeMutablePointer<addrinfo>?
        // Loopback addresses must resolve on a host without a network, which AI_ADDRCONFIG would prevent.
        if host.allSatisfy({ $0.isNumber || $0 == "." }) || host.contains(":") {
            hints.ai_flags = AI_NUMERICSERV | AI_NUMERICHOST
        }
        let result = getaddrinfo(host, String(port), &hints, &list)
        if result != 0 { throw ConnectError(String(cString: gai_strerror(result))) }
        defer { freeaddrinfo(list) }
        var last = ConnectError("the name has no address")
        var next = list
        while let address = next {
            do {
                return try connect(address.pointee, until: deadline)
            } catch {
                last = error
                next = address.pointee.ai_next
            }
        }
        throw last
    }

    private static func connect(_ address: addrinfo, until deadline: Deadline) throws(ConnectError) -> Descriptor {
        let raw = socket(
            address.ai_family, Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue), 0)
        if raw < 0 { throw failure(errno) }
        let descriptor = Descriptor(taking: raw)
        var one: Int32 = 1
        setsockopt(raw, Int32(IPPROTO_TCP), TCP_NODELAY, &one, socklen_t(MemoryLayout<Int32>.size))
        if Glibc.connect(raw, address.ai_addr, address.ai_addrlen) == 0 { return descriptor }
        if errno != EINPROGRESS { throw failure(errno) }
        while true {
            var watched = pollfd(fd: raw, events: Int16(POLLOUT), revents: 0)
            let ready = poll(&watched, 1, deadline.pollMilliseconds)
            if ready < 0 && errno == EINTR { continue }
            if ready <= 0 { throw failure(ETIMEDOUT) }
            break
        }
        var number: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        if getsockopt(raw, SOL_SOCKET, SO_ERROR, &number, &length) < 0 { throw failure(errno) }
        if number != 0 { throw failure(number) }
        return descriptor
    }

    private static func failure(_ number: Int32) -> ConnectError {
        let text = KernelError.text(number)
        return ConnectError(text.prefix(1).lowercased() + text.dropFirst(), number: number)
    }
}
