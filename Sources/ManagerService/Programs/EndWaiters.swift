import Synchronization
import Wire

/// Tasks that wait for programs to end, without a thread each. Bounded.
final class EndWaiters: Sendable {
    static let waiters_max = 1024

    private struct State {
        var next: UInt64 = 0
        var waiting: [ProgramID: [UInt64: CheckedContinuation<Void, Never>]] = [:]
        var count = 0
    }

    /// A leaf lock: continuations are resumed outside of it.
    private let state = Mutex(State())

    /// How many tasks wait.
    var count: Int { state.withLock { $0.count } }

    /// Returns when `id` has ended, at the latest after `limit`, or at once if `isRunning` says that it does not run.
    /// That is asked after the wait is known to `ended`, so that no end is missed. Answers false when too many wait
    /// already.
    func wait(for id: ProgramID, limit: Duration, isRunning: () -> Bool) async -> Bool {
        let ticket: UInt64? = state.withLock { state in
            if state.count >= Self.waiters_max { return nil }
            state.count += 1
            state.next += 1
            return state.next
        }
        guard let ticket else { return false }
        var alarm: Task<Void, Never>?
        await withCheckedContinuation { continuation in
            state.withLock { $0.waiting[id, default: [:]][ticket] = continuation }
            if !isRunning() { return resume(id, ticket) }
            alarm = Task {
                // A cancelled sleep ends early: the wait is over then.
                try? await Task.sleep(for: limit)
                resume(id, ticket)
            }
        }
        alarm?.cancel()
        state.withLock { $0.count -= 1 }
        return true
    }

    /// Wakes everybody who waits for `id`. Any thread.
    func ended(_ id: ProgramID) {
        let woken = state.withLock { $0.waiting.removeValue(forKey: id) }
        for continuation in (woken ?? [:]).values { continuation.resume() }
    }

    /// Wakes everybody.
    func close() {
        let woken = state.withLock { state in
            defer { state.waiting = [:] }
            return state.waiting
        }
        for continuation in woken.values.flatMap(\.values) { continuation.resume() }
    }

    private func resume(_ id: ProgramID, _ ticket: UInt64) {
        let continuation = state.withLock { state -> CheckedContinuation<Void, Never>? in
            let continuation = state.waiting[id]?.removeValue(forKey: ticket)
            if state.waiting[id]?.isEmpty == true { state.waiting[id] = nil }
            return continuation
        }
        continuation?.resume()
    }
}
