import Fabric
import Glibc
import Kernel
import Synchronization

/// Passes connections on to a server on this host, each a while after it has been made: what it costs to connect where
/// hosts are slow.
final class SlowPath: Sendable {
    let address: FabricAddress
    private let server: LocalServer
    private let threads: Threads

    /// POLLRDHUP of poll(2), which Glibc's module leaves out.
    private static let pollReadHangup: Int16 = 0x2000

    private final class Threads: Sendable {
        let list = Mutex<[KernelThread]>([])
    }

    init(to target: FabricAddress, after milliseconds: Int32) throws {
        let threads = Threads()
        self.threads = threads
        server = try LocalServer { client in
            let thread = try? KernelThread(name: "test-path") {
                // Only the client's end of it shortens the wait.
                var watched = pollfd(fd: client.socket, events: Self.pollReadHangup, revents: 0)
                if poll(&watched, 1, milliseconds) != 0 { return }
                guard let far = Self.connect(to: target.port) else { return }
                Self.pass(client, far)
            }
            if let thread { threads.list.withLock { $0.append(thread) } }
        }
        guard let address = FabricAddress(server.address) else { throw KernelError("address", EINVAL) }
        self.address = address
    }

    /// To be called when neither end is there any more.
    func stop() {
        server.stop()
        for thread in threads.list.withLock({ $0 }) { thread.join() }
    }

    private static func connect(to port: UInt16) -> Connection? {
        let far = Connection(socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(far.socket, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        return result == 0 ? far : nil
    }

    /// Until one of the two ends.
    private static func pass(_ near: Connection, _ far: Connection) {
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            var watched = [near, far].map { pollfd(fd: $0.socket, events: Int16(POLLIN), revents: 0) }
            if poll(&watched, 2, -1) < 0 { return }
            for (index, (from, to)) in [(near, far), (far, near)].enumerated() where watched[index].revents != 0 {
                let count = recv(from.socket, &buffer, buffer.count, 0)
                if count <= 0 || !to.write(Array(buffer[..<count])) { return }
            }
        }
    }
}
