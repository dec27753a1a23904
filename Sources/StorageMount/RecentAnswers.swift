import Glibc
import Kernel
import Synchronization

/// What the kernel was told of names and attributes and still takes for granted, so that it can be told to ask again.
///
/// Between programs nothing may be taken for granted: who has changed a file and then submits a program expects it to
/// find what he wrote. Within a program's life the kernel's caches hold for `StorageMount.attributeTimeout`; what it may
/// use for longer, `WatchedNames` looks at.
///
/// Any thread. Lock order: `turn`, then `state` or `KernelNotices`', which are leaves. A note is a copy of the name and no system
/// call; what does not fit is not cached. An answer that is on its way to the kernel while it is told to ask again counts
/// until it is told so the next time, or for a second.
final class RecentAnswers: Sendable {
    /// Its name belongs to whoever has it.
    private struct Answer: @unchecked Sendable {
        /// 0: attributes of the inode alone.
        var parent: UInt64
        /// 0: there is no such name.
        var inode: UInt64
        /// Allocated with strdup; nil without a parent.
        var name: UnsafeMutablePointer<CChar>?
        /// The kernel counts from when it has the answer, a little later than this.
        var ends = Deadline.after(.seconds(StorageMount.attributeTimeout) + .milliseconds(100))
        /// The kernel was told once to ask again, perhaps before it had the answer.
        var isCalledBack = false
    }

    private struct State: ~Copyable {
        /// A ring.
        let answers: UnsafeMutablePointer<Answer>
        var first = 0
        var count = 0

        mutating func pop() -> Answer? {
            if count == 0 { return nil }
            defer {
                first = (first + 1) % RecentAnswers.capacity
                count -= 1
            }
            return answers[first]
        }

        /// Answers whether there was room.
        mutating func push(_ answer: Answer) -> Bool {
            if count == RecentAnswers.capacity { return false }
            (answers + (first + count) % RecentAnswers.capacity).initialize(to: answer)
            count += 1
            return true
        }

        /// Drops what the kernel does not take for granted any more.
        mutating func trim() {
            while count > 0, answers[first].ends.hasPassed { free(pop()?.name) }
        }

        deinit {
            for index in 0..<count { free(answers[(first + index) % RecentAnswers.capacity].name) }
            answers.deallocate()
        }
    }

    /// Answers that are cached at a time. Each costs some 2 µs when a program starts, and once more with the next start.
    private static let capacity = 4096

    private let notices: KernelNotices
    private let state = Mutex(State(answers: .allocate(capacity: capacity)))
    /// Held while the kernel is told.
    private let turn = Mutex<Void>(())

    init(notices: KernelNotices) { self.notices = notices }

    /// How long the kernel may use what it is now told of a name, in seconds; `inode` 0: there is none.
    func timeout(parent: UInt64, name: UnsafePointer<CChar>, inode: UInt64) -> Double {
        note(Answer(parent: parent, inode: inode, name: strdup(name)))
    }

    /// How long it may use the attributes of an inode, in seconds.
    func timeout(inode: UInt64) -> Double { note(Answer(parent: 0, inode: inode, name: nil)) }

    private func note(_ answer: Answer) -> Double {
        let isNoted = state.withLock { state -> Bool in
            state.trim()
            return state.push(answer)
        }
        if !isNoted { free(answer.name) }
        return isNoted ? StorageMount.attributeTimeout : 0
    }

    /// Has the kernel ask for all of it again when it needs it. Not on a mount thread (`KernelNotices`). Who comes while
    /// another is at it waits for him, because what he has taken from the ring is not called back yet.
    func expire() {
        turn.withLock { _ in
            guard let writer = notices.open() else { return }
            for _ in 0..<state.withLock({ $0.count }) {
                guard let answer = state.withLock({ $0.pop() }) else { return }
                writer.expire(parent: answer.parent, name: answer.name, inode: answer.inode)
                if !keepOnce(answer) { free(answer.name) }
            }
        }
    }

    private func keepOnce(_ answer: Answer) -> Bool {
        if answer.isCalledBack || answer.ends.hasPassed { return false }
        var answer = answer
        answer.isCalledBack = true
        return state.withLock { $0.push(answer) }
    }
}
