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
        /// Starts under way: their numbers are taken.
        var starting: Set<ProgramID> = []
        var isClosed = false
    }
    private let state = Mutex(State())

    enum Claim: Equatable { case granted, exists, full, closed }

    /// Takes a program's number, before it is started.
    func claim(_ id: ProgramID) -> Claim {
        state.withLock { state in
            if state.isClosed { return .closed }
            if state.programs[id] != nil || state.starting.contains(id) { return .exists }
            if state.programs.count - state.ended.count + state.starting.count >= Self.running_max { return .full }
            state.starting.insert(id)
            return .granted
        }
    }

    /// The start failed.
    func abandon(_ id: ProgramID) {
        state.withLock { _ = $0.starting.remove(id) }
    }

    /// The program runs. False when the table was closed meanwhile: the program must end.
    func add(_ program: Program) -> Bool {
        state.withLock { state in
            state.starting.remove(program.id)
            state.programs[program.id] = program
            return !state.isClosed
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
