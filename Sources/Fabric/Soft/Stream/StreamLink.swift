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

    // A socket that somebody polls all the time is left to the poller (`StreamChannel.isLeft`): this thread would only take
    // its processor away.
    /// Held while `isLeft` and what the socket is watched for are changed: the device's thread may leave it while another takes
    /// it up, and the epoll instance must know what `isLeft` says last. A leaf.
    private let watching = Mutex<Void>(())
    /// The device thread's: what it knew of the polls, and when.
    private var knownPolls: UInt64 = 0
    private var knownAt: UInt64 = 0
    /// Polls in a span that show that the next one is not far.
    private static let polls_min: UInt64 = 16
    /// For so long a socket is left alone before its polls are counted again; so long may arrivals wait for a poller
    /// that stopped without arming. In nanoseconds.
    private static let span_ns: UInt64 = 1_000_000
    private static let events = EPOLLOUT.rawValue | EPOLLRDHUP.rawValue | EPOLLET.rawValue

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
            channel.onArm = { [weak self] in self?.takeUp() }
            channel.hasLink.store(true, ordering: .releasing)
            let events = EPOLL_EVENTS(rawValue: Self.events | EPOLLIN.rawValue)
            try context.loop.watch(channel.socket.raw, token: token, events: events)
            return true
        } catch {
            return false
        }
    }

    func handle(_ events: UInt32) {
        channel.drive([.receive, .transmit], pair)
        let now = monotonicNanoseconds()
        if isPolled(now) { leave() }
        knownAt = now
    }

    /// Whether polls have come thick since this was asked last.
    private func isPolled(_ now: UInt64) -> Bool {
        let polls = channel.polls.load(ordering: .relaxed)
        defer { knownPolls = polls }
        return polls &- knownPolls >= Self.polls_min && now &- knownAt < 2 * Self.span_ns
    }

    private func leave() {
        if pair.isBroken { return }
        watching.withLock { _ in
            channel.isLeft.store(true, ordering: .sequentiallyConsistent)
            context.loop.modify(channel.socket.raw, token: token, events: EPOLL_EVENTS(rawValue: Self.events))
            pair.noteLeft(true)
        }
        // Either whoever arms sees the note, or this sees the arming.
        if pair.isArmed { takeUp() }
    }

    /// Arrivals wake the device's thread again, those that are there already too. Any thread.
    func takeUp() {
        if !channel.isLeft.load(ordering: .sequentiallyConsistent) { return }
        watching.withLock { _ in
            if !channel.isLeft.exchange(false, ordering: .sequentiallyConsistent) { return }
            pair.noteLeft(false)
            let events = EPOLL_EVENTS(rawValue: Self.events | EPOLLIN.rawValue)
            context.loop.modify(channel.socket.raw, token: token, events: events)
        }
    }

    /// When the polls of a socket that is left alone must be counted again.
    func checkPolls() -> Deadline {
        guard channel.isLeft.load(ordering: .relaxed) else { return .never }
        let now = monotonicNanoseconds()
        if now &- knownAt >= Self.span_ns {
            let isStillPolled = isPolled(now)
            knownAt = now
            if !isStillPolled {
                takeUp()
                return .never
            }
        }
        return Deadline(nanoseconds: knownAt &+ Self.span_ns)
    }

    func attend() {
        if !pair.isBroken {
            if pair.hasWork { pair.driveSend() }
            return
        }
        takeUp()
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
