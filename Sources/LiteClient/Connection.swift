import CLinux
import CLite
import Glibc
import Kernel

/// Wakes a daemon that sleeps. A full socket means that it has been told already.
func ringLiteDoorbell(_ socket: Int32) {
    var byte: UInt8 = 1
    _ = send(socket, &byte, 1, Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL))
}

/// Whether the daemon has ended.
func isLiteSocketClosed(_ socket: Int32) -> Bool {
    var watched = pollfd(fd: socket, events: 0, revents: 0)
    return poll(&watched, 1, 0) > 0 && watched.revents & Int16(POLLHUP | POLLERR | POLLNVAL) != 0
}

/// The joining hand-shake.
struct Connection {
    let socket: Int32
    let node: UInt64
    let channels: [MemoryFile]

    /// Where the daemon listens when the program does not say.
    static var defaultPath: String {
        if let path = getenv("LEGO_LITE_SOCKET") { return String(cString: path) }
        return "/run/lego/lite.sock"
    }

    init(path: String, channels count: Int, priority: UInt32) throws(LiteFailure) {
        guard (1...Int(LITE_CHANNELS_MAX)).contains(count), priority <= LITE_PRIORITY_LOW.rawValue else {
            throw .invalid
        }
        let raw = Glibc.socket(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue | SOCK_CLOEXEC.rawValue), 0)
        if raw < 0 { throw .limit }
        var descriptor: Descriptor? = Descriptor(taking: raw)
        guard Self.connect(raw, path) else { throw .daemonLost }
        var limit = timeval(tv_sec: 10, tv_usec: 0)
        setsockopt(raw, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        var hello = lite_hello(
            magic: LITE_MAGIC, version: UInt16(LITE_CHANNEL_VERSION), channels: UInt8(count), priority: UInt8(priority))
        if send(raw, &hello, MemoryLayout<lite_hello>.size, Int32(MSG_NOSIGNAL)) < 0 { throw .daemonLost }
        var welcome = lite_welcome()
        var descriptors = [Int32](repeating: -1, count: Int(LITE_CHANNELS_MAX))
        var received = 0
        let size = lego_receive_descriptors(
            raw, &welcome, MemoryLayout<lite_welcome>.size, &descriptors, descriptors.count, &received, nil, 0)
        var files: [MemoryFile] = []
        var isWhole = true
        for number in descriptors.prefix(received) {
            let file = Descriptor(taking: number)
            do throws(KernelError) {
                files.append(try MemoryFile(mapping: file, bytes: Int(LITE_CHANNEL_BYTES)))
            } catch { isWhole = false }
        }
        guard size == MemoryLayout<lite_welcome>.size, welcome.magic == LITE_MAGIC,
            welcome.version == LITE_CHANNEL_VERSION
        else { throw .daemonLost }
        if welcome.status < 0 { throw LiteFailure(status: welcome.status) }
        guard isWhole, files.count == count, Int(welcome.channels) == count else { throw .limit }
        socket = descriptor.take()!.release()
        node = welcome.node
        self.channels = files
    }

    private static func connect(_ raw: Int32, _ path: String) -> Bool {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        guard bytes.count < MemoryLayout.size(ofValue: address.sun_path), !bytes.isEmpty else { return false }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        return withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(raw, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) == 0
            }
        }
    }
}
