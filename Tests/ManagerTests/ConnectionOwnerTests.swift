import Glibc
import Testing

@testable import ManagerService

@Suite struct ConnectionOwnerTests {
    @Test func ends() throws {
        let four = try #require(SocketEnd("127.0.0.9", port: 1))
        let six = try #require(SocketEnd("::1", port: 1))
        #expect(four.isLoopback && six.isLoopback)
        let mapped = try #require(SocketEnd("::ffff:127.0.0.1", port: 1))
        #expect(mapped.isLoopback && mapped.family == AF_INET)
        for other in ["128.0.0.1", "10.0.0.1", "::2", "::", "fe80::1", "::ffff:10.0.0.1"] {
            let end = try #require(SocketEnd(other, port: 1))
            #expect(!end.isLoopback)
        }
        #expect(SocketEnd("localhost", port: 1) == nil)
        #expect(SocketEnd("127.0.0.1", port: 65536) == nil)
    }

    @Test func strangersAreRefused() throws {
        let far = try #require(SocketEnd("10.0.0.1", port: 1))
        let near = try #require(SocketEnd("127.0.0.1", port: 1))
        for (remote, local) in [(far, near), (nil, near), (near, nil)] {
            #expect(throws: APIError.self) { try ConnectionOwner.find(remote: remote, local: local) }
        }
        #expect(throws: APIError.self, "there is no such connection") {
            try ConnectionOwner.find(remote: near, local: near)
        }
    }

    /// A connected pair over loopback; answers what the server would see.
    private func withConnection(
        family: Int32, _ body: (_ client: Int32, _ remote: SocketEnd, _ local: SocketEnd) throws -> Void
    ) throws {
        let text = family == AF_INET ? "127.0.0.1" : "::1"
        let listener = socket(family, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        defer { close(listener) }
        #expect(listen(listener, 1) == 0)
        // listen(2) without bind(2) takes a free port on all addresses.
        let port = try localPort(listener)
        let client = socket(family, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        try connect(client, family, port)
        let accepted = accept(listener, nil, nil)
        defer { close(accepted) }
        let remote = try #require(SocketEnd(text, port: Int(localPort(client))))
        let local = try #require(SocketEnd(text, port: Int(port)))
        try body(client, remote, local)
    }

    private func localPort(_ socket: Int32) throws -> UInt16 {
        var address = sockaddr_in6()
        var length = socklen_t(MemoryLayout<sockaddr_in6>.size)
        let result = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(socket, $0, &length) }
        }
        #expect(result == 0)
        // The port lies at the same place in both families.
        return UInt16(bigEndian: address.sin6_port)
    }

    private func connect(_ client: Int32, _ family: Int32, _ port: UInt16) throws {
        var four = sockaddr_in()
        four.sin_family = sa_family_t(AF_INET)
        four.sin_port = port.bigEndian
        four.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var six = sockaddr_in6()
        six.sin6_family = sa_family_t(AF_INET6)
        six.sin6_port = port.bigEndian
        six.sin6_addr = in6addr_loopback
        let result =
            family == AF_INET
            ? withUnsafePointer(to: &four) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    Glibc.connect(client, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
            : withUnsafePointer(to: &six) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    Glibc.connect(client, $0, socklen_t(MemoryLayout<sockaddr_in6>.size))
                }
            }
        #expect(result == 0, "connect: \(String(cString: strerror(errno)))")
    }

    @Test(arguments: [AF_INET, AF_INET6]) func theKernelKnowsTheCaller(family: Int32) throws {
        try withConnection(family: family) { client, remote, local in
            defer { close(client) }
            let caller = try ConnectionOwner.find(remote: remote, local: local)
            #expect(caller.userID == geteuid())
        }
    }

    /// A closed socket is nobody's, and the kernel reports nobody's sockets as root's.
    @Test(arguments: [AF_INET, AF_INET6]) func whoeverHangsUpIsNotTakenForRoot(family: Int32) throws {
        try withConnection(family: family) { client, remote, local in
            close(client)
            #expect(throws: APIError.self) { try ConnectionOwner.find(remote: remote, local: local) }
        }
    }
}
