import CLinux
import Kernel

// Who gives way. While a program of high priority was busy just now, or has lost its processor for a moment, the channels of low priority are *held*: they are in
// a list of their own, at which the leader does not look in its rounds, so that they cost it nothing and the program
// nothing but what is served. That is at most a seventh of the time (LITE §6.2, SW-Pri), and one row of submissions in a
// millisecond: each also wakes a program, which takes a processor from others.
extension LiteService {
    @inline(__always)
    func isContended(_ now: UInt64) -> Bool { now &- lastHigh < holdCycles }

    /// A program of high priority has been served. After one operation others give way for a millisecond; after many,
    /// whose pauses were shorter than that, for as long as those took, up to ten: who is busy and then quiet has mostly
    /// lost its processor to one of the others, and those would now spin for answers and keep it.
    @inline(__always)
    func noteHigh(_ now: UInt64) {
        if !isContended(now) { busySince = now }
        lastHigh = now
        holdCycles = min(max(priorityCycles, now &- busySince), 10 &* priorityCycles)
    }

    /// Begins or ends to hold channels of low priority.
    @inline(never)
    func setGivesWay(_ gives: Bool, _ now: UInt64) {
        givesWay = gives
        if gives {
            var index = 0
            while index < hot.count {
                let channel = hot[index]
                if !channel.givesWay {
                    index += 1
                    continue
                }
                hot.swapAt(index, hot.count - 1)
                hot.removeLast()
                hold(channel)
            }
        } else {
            for channel in held {
                channel.setYields(false)
                channel.lastActive = now
                hot.append(channel)
            }
            held.removeAll(keepingCapacity: true)
        }
    }

    /// Its program is told to sleep rather than to spin.
    func hold(_ channel: ServiceChannel) {
        channel.setYields(true)
        held.append(channel)
    }

    /// Serves one of the channels that are held, when the time for that has come; in turn. Answers whether it did.
    @inline(__always)
    func serveHeld(_ bench: Workbench, _ now: inout UInt64) -> Bool {
        Int64(bitPattern: now &- lowDue) >= 0 && serveNextHeld(bench, &now)
    }

    @inline(never)
    private func serveNextHeld(_ bench: Workbench, _ now: inout UInt64) -> Bool {
        lowDue = now &+ priorityCycles
        for _ in 0..<held.count {
            nextHeld = nextHeld + 1 < held.count ? nextHeld + 1 : 0
            let channel = held[nextHeld]
            let count = channel.take(into: bench.batch, max: Workbench.batch_max)
            if count == 0 { continue }
            serveRow(channel, bench, count, &now)
            return true
        }
        return false
    }
}
