import CLinux
import Kernel
import Synchronization

/// What a sandbox is before its program is known: enough to build its namespaces and its root.
public struct SandboxPreparation: Sendable, Equatable {
    /// The directory, in the daemon's mount namespace, that becomes the program's root.
    public var root: String
    /// Size of the private /tmp in bytes; 0: half of the host's memory.
    public var temporaryBytes: UInt64
}

/// One sandbox that is built ahead of need, so that the next program does not wait for it: a guardian and the first
/// process of its namespaces, asleep. There is none before the first program, and one that has failed is not used.
///
/// Any thread; one leaf lock. The guardian ends with this process like any other.
public final class PreparedSandbox: Sendable {
    private struct State: ~Copyable {
        var guardian: Guardian?
        var preparation: SandboxPreparation?
        /// What the thread is to build, and not before when.
        var wanted: SandboxPreparation?
        var start = Deadline.never
        var isClosed = false
    }

    /// For how long nothing is built after a sandbox has been taken: its program starts meanwhile, and what builds takes some
    /// milliseconds of a processor from it.
    static let calm: Duration = .milliseconds(50)

    private enum Step {
        case build(SandboxPreparation)
        case wait(Deadline)
        case end
    }

    private let executable: String
    private let calm: Duration
    private let state = Mutex(State())
    private let thread = Mutex<KernelThread?>(nil)
    /// Grows when something is wanted. Waited on with futex(2).
    private nonisolated(unsafe) let requests: UnsafeMutablePointer<UInt32>

    init(executable: String, calm: Duration = PreparedSandbox.calm) {
        self.executable = executable
        self.calm = calm
        requests = .allocate(capacity: 1)
        requests.initialize(to: 0)
    }

    deinit {
        close()
        requests.deallocate()
    }

    func start() throws(KernelError) {
        let started = try KernelThread(name: "lego-prepare") { [unowned self] in run() }
        thread.withLock { $0 = started }
    }

    /// Hands over the sandbox that is ready, if it is of that kind.
    func take(_ preparation: SandboxPreparation) -> Guardian? {
        guard let guardian = takeAny(of: preparation) else { return nil }
        if guardian.isSilent { return guardian }
        Sandbox.end(guardian: guardian.process.raw, control: guardian.control.raw, unless: false)
        return nil
    }

    private func takeAny(of preparation: SandboxPreparation) -> Guardian? {
        state.withLock { state in state.preparation == preparation ? state.guardian.take() : nil }
    }

    /// Has one built, when there is none, in a while. Does not wait.
    func want(_ preparation: SandboxPreparation) {
        state.withLock { state in
            if state.wanted == nil { state.start = .after(calm) }
            state.wanted = preparation
        }
        wake()
    }

    /// Has what is wanted built now: a program has ended, which leaves time for it.
    func hasten() {
        let isWanted = state.withLock { state in
            state.start = Deadline(nanoseconds: 0)
            return state.wanted != nil
        }
        if isWanted { wake() }
    }

    private func wake() {
        _ = lego_atomic_add_u32(requests, 1)
        Futex.wake(requests, count: .max)
    }

    /// Ends the thread and the sandbox. Idempotent.
    func close() {
        state.withLock { $0.isClosed = true }
        wake()
        thread.join()
        end(state.withLock { $0.guardian.take() })
    }

    private func end(_ guardian: consuming Guardian?) {
        guard let guardian else { return }
        Sandbox.end(guardian: guardian.process.raw, control: guardian.control.raw, unless: false)
    }

    private func run() {
        while true {
            let seen = lego_atomic_load_u32(requests)
            switch nextStep() {
            case .build(let wanted): build(wanted)
            case .wait(let deadline): Futex.wait(requests, while: seen, until: deadline)
            case .end: return
            }
        }
    }

    private func nextStep() -> Step {
        state.withLock { state in
            if state.isClosed { return .end }
            guard let wanted = state.wanted else { return .wait(.never) }
            if !state.start.hasPassed { return .wait(state.start) }
            state.wanted = nil
            return .build(wanted)
        }
    }

    /// What cannot be built is left out: the next program builds its own, and says why it cannot.
    private func build(_ preparation: SandboxPreparation) {
        let isThere = state.withLock { state in
            switch state.guardian {
            case .some: state.preparation == preparation
            case .none: false
            }
        }
        if isThere { return }
        guard let guardian = try? Guardian(executable: executable) else { return }
        let isAsked = (try? guardian.prepare(preparation)) != nil
        var built: Guardian? = consume guardian
        if isAsked {
            // What was there, of another kind, is in its place afterwards.
            state.withLock { state in
                swap(&state.guardian, &built)
                state.preparation = preparation
            }
        }
        end(built.take())
    }
}
