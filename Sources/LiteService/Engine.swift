import CLinux
import CLite
import Glibc
import Kernel
import Lite

// The serving threads. The leader takes submissions from the channels that are *hot*; one in which nothing has come
// for a while goes to sleep, and its program must ring to be looked at again. What does not wait is done at once;
// before anything that waits for another node the leader lets another thread lead.
extension LiteService {
    /// Submissions that a channel is served in a row.
    private static var burst_max: Int { 16 }
    private static var events_max: Int { 64 }

    /// A serving thread's body.
    func serve(_ staging: Staging) {
        let events = UnsafeMutableBufferPointer<epoll_event>.allocate(capacity: Self.events_max)
        let submission = UnsafeMutablePointer<lite_submission>.allocate(capacity: 1)
        submission.initialize(to: lite_submission())
        defer {
            events.deallocate()
            submission.deallocate()
        }
        while true {
            leadership.take()
            if isStopping.load(ordering: .acquiring) { return leadership.give() }
            lead(staging, events, submission)
        }
    }

    /// Leads until the leadership has been given away.
    private func lead(
        _ staging: Staging, _ events: UnsafeMutableBufferPointer<epoll_event>,
        _ submission: UnsafeMutablePointer<lite_submission>
    ) {
        let eventCycles = spinCycles
        var spins = gauge.shouldSpin()
        while true {
            var now = lego_cycle_count()
            var index = 0
            while index < hot.count {
                let channel = hot[index]
                var left = mayServe(channel, now) ? Self.burst_max : 0
                while left > 0, channel.next(into: submission) {
                    left -= 1
                    channel.lastActive = now
                    if serve(channel, submission.pointee, staging) { return }
                    account(channel, since: &now)
                    channel.lastActive = now
                    gauge.succeed()
                    spins = true
                }
                if now &- channel.lastActive > linger(channel, spins), cool(channel) {
                    if spins { gauge.fail() }
                    spins = gauge.shouldSpin()
                } else {
                    index += 1
                }
            }
            if isStopping.load(ordering: .relaxed) { return leadership.give() }
            if hot.isEmpty {
                if look(events, until: .never) { return }
                spins = gauge.shouldSpin()
            } else if now &- lastEventLook > eventCycles {
                if look(events, until: Deadline(nanoseconds: 0)) { return }
                lastEventLook = now
            } else {
                lego_spin_pause()
            }
        }
    }

    /// How long a channel in which nothing comes is looked at. A program that was answered with many bytes takes some
    /// time to copy them before it asks again.
    @inline(__always)
    private func linger(_ channel: ServiceChannel, _ spins: Bool) -> UInt64 {
        max(spins ? spinCycles : leastSpinCycles, min(4 &* channel.lastCycles, priorityCycles))
    }

    // MARK: Priorities

    /// A low priority waits while one of high priority was busy just now, but for a seventh of the time (LITE §6.2,
    /// SW-Pri), and once in a millisecond: each time also wakes a program, which takes a processor from others.
    @inline(__always)
    private func mayServe(_ channel: ServiceChannel, _ now: UInt64) -> Bool {
        if channel.session.priority != LITE_PRIORITY_LOW.rawValue || !configuration.softwarePriority { return true }
        let isContended = now &- lastHigh < priorityCycles
        channel.setYields(isContended)
        if isContended { channel.lastActive = now }
        return !isContended || Int64(bitPattern: now &- lowDue) >= 0
    }

    @inline(__always)
    private func account(_ channel: ServiceChannel, since now: inout UInt64) {
        let after = lego_cycle_count()
        channel.lastCycles = after &- now
        if channel.session.priority == LITE_PRIORITY_HIGH.rawValue {
            lastHigh = after
        } else if channel.session.priority == LITE_PRIORITY_LOW.rawValue {
            // The moment from which the next one is due.
            lowDue = after &+ max(6 &* (after &- now), priorityCycles)
        }
        now = after
    }

    // MARK: Hot and cold channels

    func heat(_ channel: ServiceChannel) {
        channel.lastActive = lego_cycle_count()
        if channel.isHot { return }
        channel.isHot = true
        channel.setAsleep(false)
        hot.append(channel)
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
        if let index = hot.firstIndex(where: { $0 === channel }) { hot.swapAt(index, hot.count - 1) }
        hot.removeLast()
    }

    // MARK: Events

    /// Takes what the descriptors have to say. Answers whether the leadership was given away.
    private func look(_ events: UnsafeMutableBufferPointer<epoll_event>, until deadline: Deadline) -> Bool {
        let count = epoll.wait(into: events, until: deadline)
        for index in 0..<count {
            switch events[index].data.u64 {
            case EventToken.wake: drainKick()
            case EventToken.listener: admit()
            case let number:
                guard let session = control.withLock({ $0.sessions[number] }), !hear(session) else { continue }
                for channel in session.channels { forget(channel) }
                unlist(session)
                leadership.give()
                end(session)
                return true
            }
        }
        return false
    }

    /// Takes what a program says on its socket; false when it has ended.
    private func hear(_ session: Session) -> Bool {
        if session.channels.isEmpty { return greet(session) }
        for channel in session.channels { heat(channel) }
        var byte: UInt8 = 0
        // What is left is heard next time: nobody keeps the leader by ringing.
        for _ in 0..<Self.burst_max {
            let count = recv(session.socket.raw, &byte, 1, Int32(MSG_DONTWAIT))
            if count == 0 { return false }
            if count < 0 { return errno == EAGAIN || errno == EINTR }
        }
        return true
    }
}
