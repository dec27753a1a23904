import CLinux
import CLite
import Glibc
import Kernel
import Lite

/// What a serving thread works with; its own.
struct Workbench {
    /// Submissions that are taken together.
    static let batch_max = 16
    static let events_max = 64
    let batch: UnsafeMutablePointer<lite_submission>
    let later: UnsafeMutablePointer<CountedTransfer>
    let events: UnsafeMutableBufferPointer<epoll_event>

    init() {
        batch = .allocate(capacity: Self.batch_max)
        batch.initialize(repeating: lite_submission(), count: Self.batch_max)
        later = .allocate(capacity: Self.batch_max)
        events = .allocate(capacity: Self.events_max)
    }

    func deallocate() {
        batch.deallocate()
        later.deallocate()
        events.deallocate()
    }
}

// The serving threads. The leader takes submissions from the channels that are *hot*; one in which nothing has come
// for a while goes to sleep, and its program must ring to be looked at again. What does not wait is done at once; what
// waits for another node is put into that node's lane, and if a thread more is to run the lane the leader lets another
// thread lead and does so.
extension LiteService {
    /// A serving thread's body.
    func serve() {
        let bench = Workbench()
        defer { bench.deallocate() }
        while true {
            leadership.take()
            if isStopping.load(ordering: .acquiring) { return leadership.give() }
            lead(bench)
        }
    }

    /// Leads until the leadership has been given away.
    private func lead(_ bench: Workbench) {
        let eventCycles = spinCycles
        var spins = gauge.shouldSpin()
        while true {
            if let lane = wantingLane() { return run(lane) }
            var now = lego_cycle_count()
            if isContended(now) != givesWay { setGivesWay(!givesWay, now) }
            if givesWay, !held.isEmpty, serveHeld(bench, &now) { spins = true }
            var index = 0
            while index < hot.count {
                let channel = hot[index]
                let count = channel.take(into: bench.batch, max: Workbench.batch_max)
                if count > 0 {
                    serveRow(channel, bench, count, &now)
                    gauge.succeed()
                    spins = true
                    if !wanting.isEmpty, !lanesAreFull { break }
                }
                if now &- channel.lastActive > linger(channel, spins), cool(channel) {
                    if spins { gauge.fail() }
                    spins = gauge.shouldSpin()
                } else {
                    index += 1
                }
            }
            if isStopping.load(ordering: .relaxed) { return leadership.give() }
            if !wanting.isEmpty, !lanesAreFull { continue }
            if hot.isEmpty {
                // Those that give way are looked at again when nobody needs them to.
                look(bench.events, until: held.isEmpty ? .never : .after(.milliseconds(1)))
                spins = gauge.shouldSpin()
            } else if now &- lastEventLook > eventCycles {
                look(bench.events, until: Deadline(nanoseconds: 0))
                lastEventLook = now
            } else {
                lego_spin_pause()
            }
        }
    }

    // MARK: Lanes

    /// Puts an operation into a lane. The leader.
    func `defer`(_ channel: ServiceChannel, _ submission: lite_submission, to lane: Lane) {
        if !channel.beginDeferred() { return expel(channel.session) }
        `defer`(.submission(channel, submission), to: lane)
    }

    func `defer`(_ operation: DeferredOperation, to lane: Lane) {
        if lane.add(operation) { wanting.append(lane) }
    }

    /// A lane that a thread more is to run, which the leader now does, having given the leadership away.
    private func wantingLane() -> Lane? {
        if wanting.isEmpty { return nil }
        lanesAreFull = !leadership.leaveForLane()
        if lanesAreFull { return nil }
        let lane = wanting.popFirst()
        leadership.give()
        return lane
    }

    /// Does what is in a lane until it is empty.
    private func run(_ lane: Lane) {
        while let operation = lane.next() {
            switch operation {
            case .submission(let channel, let submission):
                channel.endDeferred()
                serveDeferred(channel, submission)
            case .end(let session): end(session)
            case .refuse(let call): finishCall(call, Code.gone, Self.nothing)
            }
        }
        // The leader may sleep, with lanes that no thread was left for.
        if leadership.comeBack() { kick() }
    }

    /// Serves what was taken from a channel, and notes what it took, for priorities and for how long to go on looking.
    @inline(__always)
    func serveRow(_ channel: ServiceChannel, _ bench: Workbench, _ count: Int, _ now: inout UInt64) {
        channel.waitsForNode = false
        serve(channel, bench, count)
        let after = lego_cycle_count()
        channel.lastCycles = after &- now
        channel.lastActive = after
        if channel.isHigh {
            noteHigh(after)
        } else if channel.givesWay {
            lowDue = after &+ max(6 &* (after &- now), priorityCycles)
        }
        now = after
    }

    /// How long a channel in which nothing comes is looked at. A program that was answered with many bytes takes some
    /// time to copy them before it asks again, and one that another was woken for some time until that one has run. One
    /// that waits for another node has nothing to ask, and that node's daemon may be on this very processor. One of high
    /// priority that others give way to may have lost its processor to one of them for a moment.
    @inline(__always)
    private func linger(_ channel: ServiceChannel, _ spins: Bool) -> UInt64 {
        if channel.waitsForNode { return spins ? spinCycles : 0 }
        if channel.isHigh, !held.isEmpty { return priorityCycles / 4 }
        return max(spins ? spinCycles : leastSpinCycles, min(4 &* channel.lastCycles, priorityCycles))
    }

    // MARK: Hot and cold channels

    func heat(_ channel: ServiceChannel) {
        channel.lastActive = lego_cycle_count()
        if channel.isHot { return }
        channel.isHot = true
        channel.setAsleep(false)
        if givesWay, channel.givesWay { hold(channel) } else { hot.append(channel) }
    }

    /// Stops looking at a channel; false when something has come meanwhile.
    private func cool(_ channel: ServiceChannel) -> Bool {
        channel.setAsleep(true)
        if channel.hasNext() {
            channel.setAsleep(false)
            channel.lastActive = lego_cycle_count()
            return false
        }
        forget(channel)
        return true
    }

    func forget(_ channel: ServiceChannel) {
        guard channel.isHot else { return }
        channel.isHot = false
        if !Self.remove(channel, from: &hot) { _ = Self.remove(channel, from: &held) }
    }

    private static func remove(_ channel: ServiceChannel, from list: inout [ServiceChannel]) -> Bool {
        guard let index = list.firstIndex(where: { $0 === channel }) else { return false }
        list.swapAt(index, list.count - 1)
        list.removeLast()
        return true
    }

    // MARK: Events

    /// Takes what the descriptors have to say.
    private func look(_ events: UnsafeMutableBufferPointer<epoll_event>, until deadline: Deadline) {
        let count = epoll.wait(into: events, until: deadline)
        for index in 0..<count {
            switch events[index].data.u64 {
            case EventToken.wake: drainKick()
            case EventToken.listener: admit()
            case let number:
                guard let session = control.withLock({ $0.sessions[number] }), !hear(session) else { continue }
                for channel in session.channels { forget(channel) }
                unlist(session)
                // What it had is given back in a lane, where that may wait for other nodes.
                `defer`(.end(session), to: lanes.own)
            }
        }
    }

    /// Takes what a program says on its socket; false when it has ended.
    private func hear(_ session: Session) -> Bool {
        if session.channels.isEmpty { return greet(session) }
        for channel in session.channels { heat(channel) }
        var byte: UInt8 = 0
        // What is left is heard next time: nobody keeps the leader by ringing.
        for _ in 0..<Workbench.batch_max {
            let count = recv(session.socket.raw, &byte, 1, Int32(MSG_DONTWAIT))
            if count == 0 { return false }
            if count < 0 { return errno == EAGAIN || errno == EINTR }
        }
        return true
    }
}
