import CLinux
import Glibc
import Kernel

/// One end of a TCP connection, as an address family and the bytes of an address.
struct SocketEnd: Equatable {
    var family: Int32
    var address: [UInt8]
    var port: UInt16

    /// From the text of a numeric address; nil if it is none. An IPv4 address inside of an IPv6 one is the IPv4
    /// address.
    init?(_ text: String, port: Int) {
        guard let port = UInt16(exactly: port) else { return nil }
        self.port = port
        var bytes = [UInt8](repeating: 0, count: 16)
        // A scope (fe80::1%eth0) plays no part on loopback, where alone ends are looked up.
        if inet_pton(AF_INET, text, &bytes) == 1 {
            family = AF_INET
            address = Array(bytes.prefix(4))
        } else if inet_pton(AF_INET6, text, &bytes) == 1 {
            let isMapped = bytes.prefix(10).allSatisfy { $0 == 0 } && bytes[10] == 0xFF && bytes[11] == 0xFF
            family = isMapped ? AF_INET : AF_INET6
            address = isMapped ? Array(bytes.suffix(4)) : bytes
        } else {
            return nil
        }
    }

    /// 127.0.0.0/8 or ::1.
    var isLoopback: Bool {
        family == AF_INET ? address[0] == 127 : address.dropLast().allSatisfy { $0 == 0 } && address.last == 1
    }
}

/// Asks the kernel which user holds the other end of a connection.
enum ConnectionOwner {
    /// The caller behind a connection that `local` has accepted from `remote`. Only this host's own kernel can vouch
    /// for somebody, so the connection must not leave it. Does not block; some 20 µs.
    static func find(remote: SocketEnd?, local: SocketEnd?) throws(APIError) -> Caller {
        guard let remote, let local, remote.isLoopback, local.family == remote.family else {
            throw APIError(
                403, "the API serves this host only; run legoctl on the manager's host, over its loopback address")
        }
        let owner = lego_tcp_owner(remote.family, remote.address, remote.port, local.address, local.port)
        guard owner >= 0, let userID = UInt32(exactly: owner) else {
            let reason = KernelError.text(Int32(clamping: -owner))
            throw APIError(
                403,
                "the kernel does not say who is calling (\(reason)); keep the connection open until the answer has come"
            )
        }
        return Caller(userID: userID)
    }
}
