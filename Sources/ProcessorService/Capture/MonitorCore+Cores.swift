import Glibc
import Kernel

extension MonitorCore {
    /// The kernel is about to write a core file of a process, and waits for no page then: it gets all of them.
    func prepareCore(_ request: CoreRequest) {
        defer { request.finish() }
        if hasFailed { return }
        if let space = space(identity: readIdentity(request.process)) { releaseAll(space, request.process) }
    }
}

/// Somebody waits until a process that dumps its core has all of its memory.
final class CoreRequest: Sendable {
    let process: Int32
    private let done: EventDescriptor

    init(process: Int32) throws(KernelError) {
        self.process = process
        done = try EventDescriptor()
    }

    func finish() { done.signal() }

    /// False when that was not finished in time.
    func wait(until deadline: Deadline) -> Bool {
        var watched = pollfd(fd: done.raw, events: Int16(POLLIN), revents: 0)
        while !deadline.hasPassed {
            if poll(&watched, 1, deadline.pollMilliseconds) > 0 { return true }
        }
        return false
    }
}
