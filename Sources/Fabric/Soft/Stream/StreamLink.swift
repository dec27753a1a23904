import CLinux
import Glibc
import Kernel
import Synchronization

/// The device's side of a TCP pair: its socket, watched by the device's thread.
final class StreamLink: PairLink, @unchecked Sendable {
    let pair: SoftQueuePair
    private let channel: StreamChannel
    private let context: SoftContext
    private var token: UInt64 = 0
    /// Futex word: 1 once the pair has flushed.
    private let ended: UnsafeMutablePointer<UInt32>

    init(pair: SoftQueuePair, channel: StreamChannel) {
        self.pair = pair
        self.channel = channel
        context = pair.context
        ended = .allocate(capacity: 1)
        ended.initialize(to: 0)
    }

    deinit { ended.deallocate() }

    func watch() -> Bool {
        do throws(KernelError) {
            token = context.loop.register(self)
            // Edge-triggered: a poll may have read the socket before this thread comes to it, and a full completion
            // queue must not make it spin.
            let events = EPOLLIN.rawValue | EPOLLOUT.rawValue | EPOLLRDHUP.rawValue | EPOLLET.rawValue
            try context.loop.watch(channel.socket.raw, token: token, events: EPOLL_EVENTS(rawValue: events))
            return true
        } catch {
            return false
        }
    }

    func handle(_ events: UInt32) { channel.drive([.receive, .transmit], pair) }

    func attend() {
        if !pair.isBroken {
            if pair.hasWork { pair.driveSend() }
            return
        }
        if pair.finish() {
            context.loop.remove(channel.socket.raw, token: token)
            pair.isPeerGone.store(true, ordering: .sequentiallyConsistent)
            context.forget(self)
            lego_atomic_store_u32(ended, 1)
            Futex.wake(ended, count: .max)
        }
    }

    func awaitEnd(until deadline: Deadline) {
        while lego_atomic_load_u32(ended) == 0, !deadline.hasPassed { Futex.wait(ended, while: 0, until: deadline) }
    }

    func waitForAccesses(until deadline: Deadline) { channel.waitForAccesses() }

    func tellRegionGone(_ key: UInt32) {}
}
