import Kernel
import Synchronization
import Wire

/// A process that joined a program (`legoctl exec`), as other threads see it; its own thread is `JoinedLoop`.
///
/// Lock order: `state` is a leaf; nothing is called while it is held but to wake its thread.
final class JoinedProgram: Sendable {
    let program: ProgramID
    private let token: [UInt8]
    let wake: EventDescriptor

    struct Inbox: ~Copyable {
        var client: Descriptor?
        /// The processor is shut down.
        var isLeaving = false
    }

    private struct State: ~Copyable {
        var inbox = Inbox()
        var hadClient = false
        var hasEnded = false
        var thread: KernelThread?
    }
    private let state = Mutex(State())

    init(program: ProgramID, token: [UInt8]) throws(KernelError) {
        self.program = program
        self.token = token
        wake = try EventDescriptor()
    }

    func accepts(token other: UnsafeRawBufferPointer) -> Bool { Token.matches(token, other) }

    /// Hands over a client that wants the streams. Answers why not, if not.
    func attach(_ client: consuming Descriptor) -> String? {
        var client: Descriptor? = client
        return state.withLock { state in
            if state.hasEnded { return "what joined program \(program) has ended" }
            if state.hadClient { return "somebody else is attached to what joined program \(program)" }
            state.hadClient = true
            state.inbox.client = client.take()
            wake.signal()
            return nil
        }
    }

    /// Waits for nobody any more.
    func leave() {
        state.withLock { $0.inbox.isLeaving = true }
        wake.signal()
    }

    func takeInbox() -> Inbox {
        state.withLock { state in Inbox(client: state.inbox.client.take(), isLeaving: state.inbox.isLeaving) }
    }

    func runs(on thread: KernelThread) { state.withLock { $0.thread = thread } }

    /// Its thread needs nothing more.
    func ended() {
        state.withLock { state in
            state.hasEnded = true
            state.inbox.client = nil
        }
    }

    /// Waits for its thread to end. One caller.
    func join() {
        let thread = state.withLock { state in
            defer { state.thread = nil }
            return state.thread
        }
        thread?.join()
    }
}

/// What a client must show.
enum Token {
    /// Compares in constant time: how long it takes tells nothing about the token.
    static func matches(_ token: [UInt8], _ other: UnsafeRawBufferPointer) -> Bool {
        if other.count != token.count { return false }
        var difference: UInt8 = 0
        for index in 0..<token.count { difference |= token[index] ^ other[index] }
        return difference == 0
    }
}
