import Glibc
import Synchronization
import Wire

/// The programs of the component: the running ones, and the last ones that have ended, for whoever asks for their logs.
///
/// Lock order: `state` is a leaf.
final class ProgramTable: Sendable {
    static let running_max = 4096
    static let ended_max = 1024

    private struct State {
        var programs: [ProgramID: Program] = [:]
        /// Ended ones, oldest first.
        var ended: [ProgramID] = []
        /// Starts under way: their numbers are taken. The value says whether the start was cancelled.
        var starting: [ProgramID: Bool] = [:]
        var isClosed = false
    }
    private let state = Mutex(State())

    enum Claim: Equatable { case granted, exists, full, closed }

    /// Takes a program's number, before it is started.
    func claim(_ id: ProgramID) -> Claim {
        state.withLock { state in
            if state.isClosed { return .closed }
            if state.programs[id] != nil || state.starting[id] != nil { return .exists }
            if state.programs.count - state.ended.count + state.starting.count >= Self.running_max { return .full }
            state.starting[id] = false
            return .granted
        }
    }

    /// The start failed.
    func abandon(_ id: ProgramID) {
        state.withLock { _ = $0.starting.removeValue(forKey: id) }
    }

    /// Cancels a start that is under way. False when there is none.
    func cancel(_ id: ProgramID) -> Bool {
        state.withLock { state in
            if state.starting[id] == nil { return false }
            state.starting[id] = true
            return true
        }
    }

    enum Verdict { case run, cancelled, closed }

    /// The program has been started. Answers what shall become of it.
    func add(_ program: Program) -> Verdict {
        state.withLock { state in
            let isCancelled = state.starting.removeValue(forKey: program.id) ?? false
            state.programs[program.id] = program
            return state.isClosed ? .closed : isCancelled ? .cancelled : .run
        }
    }

    /// The program has ended. Forgets the oldest ended one, with its log, when there are too many.
    func ended(_ id: ProgramID) {
        let forgotten = state.withLock { state -> Program? in
            state.ended.append(id)
            if state.ended.count <= Self.ended_max { return nil }
            return state.programs.removeValue(forKey: state.ended.removeFirst())
        }
        if let forgotten, forgotten.isDetached { unlink(forgotten.logPath) }
    }

    /// The program could not be run after all.
    func remove(_ id: ProgramID) {
        state.withLock { _ = $0.programs.removeValue(forKey: id) }
    }

    subscript(id: ProgramID) -> Program? { state.withLock { $0.programs[id] } }

    var all: [Program] { state.withLock { Array($0.programs.values) } }

    /// No program can be added from now on.
    func close() {
        state.withLock { $0.isClosed = true }
    }
}
