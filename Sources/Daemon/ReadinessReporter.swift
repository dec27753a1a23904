import Glibc
import Kernel
import Synchronization
import Wire

/// Tells the starter of the daemon, once, that it is ready or why not (`--ready-fd`). Any thread may report.
public final class ReadinessReporter: Sendable {
    /// Owned; -1 when nobody waits.
    private let descriptor: Int32
    private let isReported = Atomic(false)

    /// Takes the descriptor over; nil: nobody waits.
    init(descriptor number: Int32?) throws(DaemonError) {
        guard let number else {
            descriptor = -1
            return
        }
        if number < 3 || fcntl(number, F_SETFD, FD_CLOEXEC) < 0 {
            throw DaemonError("--ready-fd is \(number); allowed: the number of an open descriptor from 3 on")
        }
        descriptor = number
    }

    deinit { if descriptor >= 0 { close(descriptor) } }

    /// Reports; later reports are ignored.
    public func report(_ readiness: DaemonReadiness) {
        if isReported.exchange(true, ordering: .relaxed) { return }
        if descriptor < 0 { return }
        var line = readiness.line
        // A starter that is gone is noticed by the end of the connection.
        _ = line.withUTF8 { send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
    }

    /// The descriptor to watch for the starter's answer, where the starter is owed one.
    var watched: Int32? { descriptor < 0 ? nil : descriptor }

    /// Takes the starter's answer; nil when the starter is gone.
    func starterKeeps() -> Bool? {
        if descriptor < 0 { return true }
        var byte: UInt8 = 0
        let count = recv(descriptor, &byte, 1, Int32(MSG_DONTWAIT))
        if count == 1 { return byte == DaemonReadiness.keep ? true : nil }
        return count < 0 && (errno == EAGAIN || errno == EINTR) ? false : nil
    }
}
