import CLinux
import Fabric
import Glibc
import Kernel
import Logging
import Wire

/// Where legoctl connects: reads each connection's `hello`, checks its token, and hands the connection to the program's
/// thread or answers it with the log. One thread; no connection holds up another.
final class AttachServer: Sendable {
    /// How long a connection may take for its `hello`.
    static let helloLimit = Duration.seconds(5)
    /// Connections without `hello`, and logs under way, at a time.
    private static let connections_max = 64

    /// The address with the port that was taken.
    let address: FabricAddress
    private let listener: Descriptor
    private let wake: EventDescriptor
    private let find: @Sendable (ProgramID) -> Program?
    private let logger: Logger

    init(listen: FabricAddress, logger: Logger, find: @escaping @Sendable (ProgramID) -> Program?) throws(FabricError) {
        do {
            listener = try Self.listen(on: listen)
            address = FabricAddress(host: listen.host, port: try Self.port(of: listener.raw))
            wake = try EventDescriptor()
        } catch {
            throw .cannotListen(listen, reason: KernelError.text(error.number))
        }
        self.logger = logger
        self.find = find
    }

    private static func listen(on address: FabricAddress) throws(KernelError) -> Descriptor {
        var hints = addrinfo()
        hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var found: UnsafeMutablePointer<addrinfo>?
        guard getaddrinfo(address.host, String(address.port), &hints, &found) == 0, let found else {
            throw KernelError("getaddrinfo", EADDRNOTAVAIL)
        }
        defer { freeaddrinfo(found) }
        let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
        let raw = socket(found.pointee.ai_family, type, 0)
        if raw < 0 { throw KernelError("socket") }
        let listener = Descriptor(taking: raw)
        var on: Int32 = 1
        setsockopt(raw, SOL_SOCKET, SO_REUSEADDR, &on, socklen_t(MemoryLayout<Int32>.size))
        if bind(raw, found.pointee.ai_addr, found.pointee.ai_addrlen) < 0 { throw KernelError("bind") }
        if Glibc.listen(raw, 128) < 0 { throw KernelError("listen") }
        return listener
    }

    private static func port(of socket: Int32) throws(KernelError) -> UInt16 {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let result = withUnsafeMutablePointer(to: &storage) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(socket, $0, &length) }
        }
        if result < 0 { throw KernelError("getsockname") }
        // The port lies at the same place in both families.
        return withUnsafeBytes(of: storage) { UInt16(bigEndian: $0.loadUnaligned(fromByteOffset: 2, as: UInt16.self)) }
    }

    /// Serves until `stop`. The body of the server's thread.
    func run() {
        var connections: [AttachConnection] = []
        var watched: [pollfd] = []
        while true {
            watched.removeAll(keepingCapacity: true)
            watched.append(pollfd(fd: wake.raw, events: Int16(POLLIN), revents: 0))
            watched.append(pollfd(fd: listener.raw, events: Int16(POLLIN), revents: 0))
            var deadline = Deadline.never
            for connection in connections {
                watched.append(connection.poll)
                deadline = min(deadline, connection.deadline)
            }
            if poll(&watched, nfds_t(watched.count), deadline.pollMilliseconds) < 0 { continue }
            if watched[0].revents != 0 { return }
            for (index, connection) in connections.enumerated() where watched[index + 2].revents != 0 {
                connection.serve(find)
            }
            connections.removeAll { $0.isThrough || $0.deadline.hasPassed }
            if watched[1].revents != 0, let connection = accept() {
                if connections.count >= Self.connections_max { Self.makeRoom(&connections) }
                connections.append(connection)
            }
        }
    }

    /// Drops the connection that has been silent for longest, so that nobody keeps others out by saying nothing; or else the
    /// oldest.
    private static func makeRoom(_ connections: inout [AttachConnection]) {
        connections.remove(at: connections.firstIndex { !$0.isAnswered } ?? 0)
    }

    /// Ends `run`; connections that have been handed over are not touched. Any thread.
    func stop() { wake.signal() }

    private func accept() -> AttachConnection? {
        let raw = lego_accept(listener.raw, 1)
        if raw >= 0 { return AttachConnection(Descriptor(taking: raw)) }
        if raw == -EMFILE || raw == -ENFILE {
            logger.warning("cannot accept a connection", metadata: ["reason": "\(KernelError.text(-raw))"])
        }
        return nil
    }
}
