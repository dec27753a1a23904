import CLinux
import Glibc
import Kernel

/// The process that lets go of this daemon's file systems when the daemon has been killed (`lego-sandbox/release.c`):
/// a thread of the daemon may wait for a file of a tree that the daemon itself serves, and would never end.
///
/// Made and stopped on the daemon's main thread, whose end the process is told of.
public final class MountRelease: Sendable {
    private static let startLimit = Duration.seconds(10)
    private let process: Descriptor
    private let socket: Descriptor

    /// Starts the process; what is mounted on `mounts` before the call or after it is released. Waits until it has
    /// started. `executable` is the path of lego-sandbox.
    public init(executable: String, mounts: [String]) throws(KernelError) {
        let sockets = try SocketPair()
        let process = try Self.spawn(executable, mounts, socket: sockets.theirs.raw)
        self.process = process
        socket = sockets.takeOurs()
        // Nobody else may hold the other end: its process' end is to be seen here.
        var waited = pollfd(fd: socket.raw, events: Int16(POLLIN), revents: 0)
        let deadline = Deadline.after(Self.startLimit)
        while poll(&waited, 1, deadline.pollMilliseconds) < 0, errno == EINTR {}
        var byte: UInt8 = 0
        if waited.revents == 0 || read(socket.raw, &byte, 1) != 1 {
            stop()
            throw KernelError("start of \(executable)", ETIMEDOUT)
        }
    }

    private static func spawn(_ executable: String, _ mounts: [String], socket: Int32) throws(KernelError) -> Descriptor
    {
        let null = open("/dev/null", O_RDWR | O_CLOEXEC)
        if null < 0 { throw KernelError("open /dev/null") }
        let nullDescriptor = Descriptor(taking: null)
        return try Guardian.spawn(
            executable, mounts, [nullDescriptor.raw, nullDescriptor.raw, nullDescriptor.raw, socket])
    }

    /// Ends the process, which unmounts what is still there. Idempotent.
    public func stop() {
        _ = shutdown(socket.raw, Int32(SHUT_RDWR))
        var status: Int32 = 0
        _ = lego_pidfd_reap(process.raw, 1, &status)
    }
}
