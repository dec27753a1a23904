import CLinux
import Fabric
import Glibc
import Kernel

/// A completion queue that is polled by whoever waits for something in it: first spinning, then asleep. One of the sleepers (the
/// sentinel) sleeps on the queue's descriptor and completes the others, who sleep on their own words; when it leaves it hands
/// the post to one of them. So a lone caller is woken by the device itself, one thread switch after the completion.
///
/// Lock order: a gate's lock is a leaf, and is never held over a wait.
final class CompletionGate<Queue: CompletionQueue>: @unchecked Sendable {
    let queue: Queue
    let lock = AdaptiveLock()
    private let gauge = SpinGauge()
    /// Ends the sentinel's sleep without a completion, when its peer is lost. One event descriptor per node, so optional.
    private let kick: KickDescriptor?

    // Protected by `lock`.
    private var sentinel: UnsafeMutablePointer<Waiter>?
    private var first: UnsafeMutablePointer<Waiter>?
    private let completions: UnsafeMutableBufferPointer<WorkCompletion>

    init(queue: Queue, kick: KickDescriptor? = nil) {
        self.queue = queue
        self.kick = kick
        completions = .allocate(capacity: 16)
    }

    deinit { completions.deallocate() }

    /// Takes all completions that are there and hands them to `handle`. `lock` is held. Answers whether there was one.
    @inline(__always)
    @discardableResult
    func drainLocked(_ handle: (WorkCompletion) -> Void) -> Bool {
        var any = false
        while true {
            let count = queue.poll(into: completions)
            for index in 0..<count { handle(completions[index]) }
            if count > 0 { any = true }
            if count < completions.count { return any }
        }
    }

    /// Ends a wait: `done` or `lost`. `lock` is held.
    @inline(__always)
    func finishLocked(_ waiter: UnsafeMutablePointer<Waiter>, _ state: UInt32) {
        let former = lego_atomic_exchange_u32(waiter.word, state)
        if former == Waiter.State.sleeping {
            unlink(waiter)
            Futex.wake(waiter.word)
        }
    }

    /// Ends the sentinel's sleep, so that it looks at its waiter's state.
    func wakeSentinel() { kick?.signal() }

    /// Waits until `waiter` is over. False at the deadline; with `abandoning` the waiter then is in state `abandoned`, else still
    /// `pending`. `handle` completes waiters by `finishLocked`, and runs under the lock on this thread.
    @inline(__always)
    func wait(
        for waiter: UnsafeMutablePointer<Waiter>, until deadline: Deadline, spin_ns: UInt64, abandoning: Bool,
        _ handle: (WorkCompletion) -> Void
    ) -> Bool {
        if waiter.isOver { return true }
        if spin_ns > 0, gauge.shouldSpin() {
            let limit = monotonicNanoseconds() &+ spin_ns
            repeat {
                for _ in 0..<16 {
                    if lock.tryLock() {
                        drainLocked(handle)
                        lock.unlock()
                    }
                    if waiter.isOver {
                        gauge.succeed()
                        return true
                    }
                    lego_spin_pause()
                }
            } while monotonicNanoseconds() < limit
            gauge.fail()
        }
        return sleep(for: waiter, until: deadline, abandoning: abandoning, handle)
    }

    @inline(never)
    private func sleep(
        for waiter: UnsafeMutablePointer<Waiter>, until deadline: Deadline, abandoning: Bool,
        _ handle: (WorkCompletion) -> Void
    ) -> Bool {
        lock.lock()
        defer {
            if sentinel == nil { promoteLocked() }
            lock.unlock()
        }
        while true {
            drainLocked(handle)
            if waiter.isOver { return true }
            if deadline.hasPassed {
                if abandoning { lego_atomic_store_u32(waiter.word, Waiter.State.abandoned) }
                return false
            }
            if sentinel == nil {
                sentinel = waiter
                queue.arm()
                drainLocked(handle)
                if !waiter.isOver {
                    lock.unlock()
                    sleepOnDescriptor(until: deadline)
                    lock.lock()
                    queue.acknowledge()
                }
                sentinel = nil
            } else {
                link(waiter)
                lego_atomic_store_u32(waiter.word, Waiter.State.sleeping)
                lock.unlock()
                Futex.wait(waiter.word, while: Waiter.State.sleeping, until: deadline)
                lock.lock()
                if waiter.state == Waiter.State.sleeping {
                    unlink(waiter)
                    lego_atomic_store_u32(waiter.word, Waiter.State.pending)
                }
            }
        }
    }

    private func sleepOnDescriptor(until deadline: Deadline) {
        var watched = (
            pollfd(fd: queue.notificationDescriptor, events: Int16(POLLIN), revents: 0),
            pollfd(fd: kick?.raw ?? -1, events: Int16(POLLIN), revents: 0)
        )
        withUnsafeMutablePointer(to: &watched) { pointer in
            pointer.withMemoryRebound(to: pollfd.self, capacity: 2) { _ = poll($0, 2, deadline.pollMilliseconds) }
        }
        if watched.1.revents != 0 { kick?.drain() }
    }

    /// Wakes one sleeper, who becomes the sentinel. `lock` is held.
    private func promoteLocked() {
        guard let waiter = first else { return }
        unlink(waiter)
        lego_atomic_store_u32(waiter.word, Waiter.State.pending)
        Futex.wake(waiter.word)
    }

    private func link(_ waiter: UnsafeMutablePointer<Waiter>) {
        waiter.pointee.previous = nil
        waiter.pointee.next = first
        first?.pointee.previous = waiter
        first = waiter
    }

    private func unlink(_ waiter: UnsafeMutablePointer<Waiter>) {
        if first == waiter { first = waiter.pointee.next }
        waiter.pointee.previous?.pointee.next = waiter.pointee.next
        waiter.pointee.next?.pointee.previous = waiter.pointee.previous
        waiter.pointee.next = nil
        waiter.pointee.previous = nil
    }
}

/// An event descriptor that several objects hold.
final class KickDescriptor: Sendable {
    private let event: EventDescriptor
    init() throws(KernelError) { event = try EventDescriptor() }
    var raw: Int32 { event.raw }
    func signal() { event.signal() }
    func drain() { event.drain() }
}
