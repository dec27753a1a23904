import Glibc
import Kernel
import Synchronization
import Wire

/// Tells the starter of the daemon, once, that it is ready or why not (`--ready-fd`). Any thread may report.
public final class ReadinessReporter: Sendable {
    /// Owned; -1 when nobody waits.
    private let descriptor: Int32
    /// Owned; -1 when the daemon ends with the socket. An eventfd that all daemons of a start share and nobody reads, so
    /// that one signal keeps all of them or none.
    private let keep: Int32
    private let isReported = Atomic(false)

    /// What becomes of the daemon.
    enum Verdict { case goesOn, waits, ends }

    /// Takes the descriptors over; `ready` nil: nobody waits.
    init(ready: Int32?, keep: Int32?) throws(DaemonError) {
        descriptor = try Self.taken(ready, "--ready-fd")
        self.keep = try Self.taken(keep, "--keep-fd")
    }

    deinit {
        if descriptor >= 0 { close(descriptor) }
        if keep >= 0 { close(keep) }
    }

    private static func taken(_ number: Int32?, _ flag: String) throws(DaemonError) -> Int32 {
        guard let number else { return -1 }
        if number < 3 || fcntl(number, F_SETFD, FD_CLOEXEC) < 0 {
            throw DaemonError("\(flag) is \(number); allowed: the number of an open descriptor from 3 on")
        }
        return number
    }

    /// Reports; later reports are ignored.
    public func report(_ readiness: DaemonReadiness) {
        if isReported.exchange(true, ordering: .relaxed) { return }
        if descriptor < 0 { return }
        var line = readiness.line
        // A starter that is gone is noticed by the end of the connection.
        _ = line.withUTF8 { send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
    }

    /// The descriptor to watch for the starter's end, where there is a starter.
    var watched: Int32? { descriptor < 0 ? nil : descriptor }

    /// For when `watched` is readable.
    func verdict() -> Verdict {
        var byte: UInt8 = 0
        let count = recv(descriptor, &byte, 1, Int32(MSG_DONTWAIT))
        // A starter has nothing to say but its end.
        if count > 0 || (count < 0 && (errno == EAGAIN || errno == EINTR)) { return .waits }
        var watched = pollfd(fd: keep, events: Int16(POLLIN), revents: 0)
        return keep >= 0 && poll(&watched, 1, 0) == 1 && watched.revents & Int16(POLLIN) != 0 ? .goesOn : .ends
    }
}
