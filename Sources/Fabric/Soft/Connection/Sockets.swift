import CLinux
import Glibc
import Kernel

/// Non-blocking sockets with deadlines, for connection set-up.
enum Sockets {
    private static let streamType =
        Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
    private static let packetType =
        Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)

    // MARK: TCP

    /// Calls `body` for each address that a name stands for until one succeeds; else throws the last failure.
    static func withAddresses(
        of address: FabricAddress, isPassive: Bool, _ failure: (String) -> FabricError,
        _ body: (UnsafePointer<sockaddr>, socklen_t) throws(KernelError) -> Void
    ) throws(FabricError) {
        var hints = addrinfo()
        hints.ai_family = AF_UNSPEC
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        hints.ai_flags = isPassive ? AI_PASSIVE : 0
        var list: UnsafeMutablePointer<addrinfo>?
        let result = getaddrinfo(address.host, String(address.port), &hints, &list)
        guard result == 0, let first = list else { throw failure(String(cString: gai_strerror(result))) }
        defer { freeaddrinfo(first) }
        var reason = "no address"
        var next: UnsafeMutablePointer<addrinfo>? = first
        while let info = next {
            next = info.pointee.ai_next
            do throws(KernelError) {
                return try body(info.pointee.ai_addr, info.pointee.ai_addrlen)
            } catch {
                reason = error.description
            }
        }
        throw failure(reason)
    }

    private static func makeStream(_ name: UnsafePointer<sockaddr>) throws(KernelError) -> Descriptor {
        let raw = socket(Int32(name.pointee.sa_family), streamType, 0)
        if raw < 0 { throw KernelError("socket") }
        return Descriptor(taking: raw)
    }

    /// A listening TCP socket.
    static func listen(on address: FabricAddress) throws(FabricError) -> Descriptor {
        var socket: Descriptor?
        try withAddresses(of: address, isPassive: true, { .cannotListen(address, reason: $0) }) {
            (name, length) throws(KernelError) in
            let made = try makeStream(name)
            setOption(made.raw, SOL_SOCKET, SO_REUSEADDR, 1)
            if bind(made.raw, name, length) < 0 { throw KernelError("bind") }
            if Glibc.listen(made.raw, Int32(SoftLimits.backlog_max)) < 0 { throw KernelError("listen") }
            socket = consume made
        }
        guard let socket else { throw .cannotListen(address, reason: "no address") }
        return socket
    }

    /// The port of a bound socket.
    static func localPort(_ socket: Int32) -> UInt16 {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        return withUnsafeMutableBytes(of: &storage) { bytes in
            getsockname(socket, bytes.baseAddress!.assumingMemoryBound(to: sockaddr.self), &length)
            // The port has the same place in sockaddr_in and sockaddr_in6.
            return UInt16(bigEndian: bytes.load(fromByteOffset: 2, as: UInt16.self))
        }
    }

    /// A connected TCP socket.
    static func connect(to address: FabricAddress, until deadline: Deadline) throws(FabricError) -> Descriptor {
        var socket: Descriptor?
        try withAddresses(of: address, isPassive: false, { .unreachable(address, reason: $0) }) {
            (name, length) throws(KernelError) in
            let made = try makeStream(name)
            try finishConnecting(made.raw, Glibc.connect(made.raw, name, length), until: deadline)
            socket = consume made
        }
        guard let socket else { throw .unreachable(address, reason: "no address") }
        return socket
    }

    /// Waits for the outcome of a non-blocking connect(2) that answered `result`.
    private static func finishConnecting(_ socket: Int32, _ result: Int32, until deadline: Deadline) throws(KernelError)
    {
        if result == 0 { return }
        if errno != EINPROGRESS { throw KernelError("connect") }
        try wait(for: socket, Int16(POLLOUT), until: deadline, "connect")
        var error: Int32 = 0
        var size = socklen_t(4)
        getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size)
        if error != 0 { throw KernelError("connect", error) }
    }

    /// Sets a connected socket up for small latency, and so that a peer that falls silent is noticed.
    static func prepareStream(_ socket: Int32, peerTimeout: Duration) {
        let milliseconds = Int32(
            clamping: peerTimeout.components.seconds * 1000 + peerTimeout.components.attoseconds / 1_000_000_000_000_000
        )
        let tcp = Int32(IPPROTO_TCP)
        setOption(socket, tcp, TCP_NODELAY, 1)
        setOption(socket, tcp, TCP_USER_TIMEOUT, milliseconds)
        setOption(socket, SOL_SOCKET, SO_KEEPALIVE, 1)
        setOption(socket, tcp, TCP_KEEPIDLE, max(1, milliseconds / 2000))
        setOption(socket, tcp, TCP_KEEPINTVL, 1)
        setOption(socket, tcp, TCP_KEEPCNT, max(1, milliseconds / 2000))
    }

    static func setOption(_ socket: Int32, _ level: Int32, _ option: Int32, _ value: Int32) {
        var value = value
        setsockopt(socket, level, option, &value, 4)
    }

    // MARK: Unix

    /// The address of a device's socket in the abstract name space: gone with its last holder, whatever kills it.
    private static func withLocalName<Value>(
        _ instance: InstanceID, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Value
    ) -> Value {
        var name = sockaddr_un()
        name.sun_family = sa_family_t(AF_UNIX)
        let text = Array("\0lego-fabric-\(instance.text)".utf8)
        withUnsafeMutableBytes(of: &name.sun_path) { $0.copyBytes(from: text) }
        return withUnsafeBytes(of: &name) {
            body($0.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t(2 + text.count))
        }
    }

    static func listenLocal(_ instance: InstanceID) throws(KernelError) -> Descriptor {
        let raw = socket(AF_UNIX, packetType, 0)
        if raw < 0 { throw KernelError("socket") }
        let descriptor = Descriptor(taking: raw)
        if withLocalName(instance, { bind(raw, $0, $1) }) < 0 { throw KernelError("bind") }
        if Glibc.listen(raw, Int32(SoftLimits.backlog_max)) < 0 { throw KernelError("listen") }
        return descriptor
    }

    static func connectLocal(_ instance: InstanceID) throws(KernelError) -> Descriptor {
        let raw = socket(AF_UNIX, packetType, 0)
        if raw < 0 { throw KernelError("socket") }
        let descriptor = Descriptor(taking: raw)
        if withLocalName(instance, { Glibc.connect(raw, $0, $1) }) < 0 { throw KernelError("connect") }
        return descriptor
    }

    // MARK: Waiting

    /// Waits until a descriptor is ready for `events` (or has failed, which the next call on it tells).
    static func wait(for descriptor: Int32, _ events: Int16, until deadline: Deadline, _ call: String)
        throws(KernelError)
    {
        while true {
            var entry = pollfd(fd: descriptor, events: events, revents: 0)
            let result = poll(&entry, 1, deadline.pollMilliseconds)
            if result > 0 { return }
            if result < 0, errno != EINTR { throw KernelError("poll") }
            if deadline.hasPassed { throw KernelError(call, ETIMEDOUT) }
        }
    }

    /// Reads exactly `count` bytes.
    static func receive(_ socket: Int32, count: Int, until deadline: Deadline) throws(KernelError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var filled = 0
        while filled < count {
            let result = bytes.withUnsafeMutableBytes {
                recv(socket, $0.baseAddress! + filled, count - filled, Int32(MSG_DONTWAIT))
            }
            if result > 0 {
                filled += result
            } else if result == 0 {
                throw KernelError("recv", ECONNRESET)
            } else if errno == EAGAIN {
                try wait(for: socket, Int16(POLLIN), until: deadline, "recv")
            } else if errno != EINTR {
                throw KernelError("recv")
            }
        }
        return bytes
    }

    /// Sends a greeting on a connection that nothing has been sent on: it fits the socket's buffer.
    static func sendGreeting(_ socket: Int32, _ bytes: [UInt8]) throws(KernelError) {
        let sent = bytes.withUnsafeBytes {
            send(socket, $0.baseAddress, $0.count, Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL))
        }
        if sent != bytes.count { throw KernelError("send", sent < 0 ? errno : EMSGSIZE) }
    }
}
