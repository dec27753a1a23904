import CLinux
import Glibc
import Kernel
import Lite
import Synchronization
import Wire

/// Gives handles back to the storage component: nodes that the kernel has forgotten and files that were closed. Nobody
/// waits for that, so they are gathered for a moment and sent together, by a thread of its own; a full batch is sent by
/// whoever filled it.
///
/// Any thread; one lock, innermost, never held over a call.
final class HandleReturns: Sendable {
    /// How long handles are gathered. As long at most does a file that was removed and closed still take room on the
    /// disk.
    static let delay: Duration = .milliseconds(50)

    private struct State {
        var batch = ProcessorStorageForget(items: [], files: [])
        /// The session in which the batch's handles were given.
        var session: UInt32 = 0
        /// Batches that were taken and are not sent yet.
        var sending = 0
        var isClosed = false

        /// What has been gathered, which the caller sends, or nil.
        mutating func take() -> ProcessorStorageForget? {
            if batch.items.isEmpty && batch.files.isEmpty { return nil }
            defer { batch = ProcessorStorageForget(items: [], files: []) }
            sending += 1
            return batch
        }
    }

    private let link: StorageLink
    private let state = Mutex(State())
    private let thread = Mutex<KernelThread?>(nil)
    /// Grows when the first handle of a batch comes in. Waited on with futex(2).
    private nonisolated(unsafe) let arrivals: UnsafeMutablePointer<UInt32>
    /// Grows when a batch was sent. Waited on with futex(2).
    private nonisolated(unsafe) let ends: UnsafeMutablePointer<UInt32>

    init(link: StorageLink) {
        self.link = link
        arrivals = .allocate(capacity: 1)
        arrivals.initialize(to: 0)
        ends = .allocate(capacity: 1)
        ends.initialize(to: 0)
    }

    deinit {
        arrivals.deallocate()
        ends.deallocate()
    }

    func start() throws(KernelError) {
        let started = try KernelThread(name: "mount-return") { [self] in run() }
        thread.withLock { $0 = started }
    }

    /// Sends what is left and ends the thread.
    func stop() {
        state.withLock { $0.isClosed = true }
        _ = lego_atomic_add_u32(arrivals, 1)
        Futex.wake(arrivals, count: .max)
        thread.join()
    }

    /// The kernel has forgotten a node that the storage component counted so often.
    func forget(_ node: UInt64, references: UInt64, session: UInt32) {
        add(session) { $0.items.append(ProcessorStorageForget.Item(node: node, references: references)) }
    }

    /// A file was closed.
    func release(_ file: UInt64, session: UInt32) {
        add(session) { $0.files.append(file) }
    }

    private func add(_ session: UInt32, _ change: (inout ProcessorStorageForget) -> Void) {
        let (isFirst, full) = state.withLock { state -> (Bool, ProcessorStorageForget?) in
            // Handles of a session that has ended mean nothing any more.
            if state.session != session { state.batch = ProcessorStorageForget(items: [], files: []) }
            state.session = session
            change(&state.batch)
            let (items, files) = (state.batch.items.count, state.batch.files.count)
            if items < StorageLimit.forgotten_max && files < StorageLimit.forgotten_max {
                return (items + files == 1, nil)
            }
            return (false, state.take())
        }
        if let full { send(full, session) }
        if isFirst {
            _ = lego_atomic_add_u32(arrivals, 1)
            Futex.wake(arrivals, count: .max)
        }
    }

    private func run() {
        while true {
            let seen = lego_atomic_load_u32(arrivals)
            let (isEmpty, isClosed) = state.withLock {
                ($0.batch.items.isEmpty && $0.batch.files.isEmpty, $0.isClosed)
            }
            if isEmpty {
                if isClosed { return }
                Futex.wait(arrivals, while: seen, until: .never)
                continue
            }
            // More arrive meanwhile; only the end cuts it short.
            if !isClosed { Futex.wait(arrivals, while: seen, until: .after(Self.delay)) }
            flush()
        }
    }

    /// Has the component know of all that was given back until now; where that is nothing, of what is next, if it comes
    /// before the deadline.
    func flush(orNextUntil deadline: Deadline) {
        let seen = lego_atomic_load_u32(arrivals)
        if flush() { return }
        Futex.wait(arrivals, while: seen, until: deadline)
        flush()
    }

    /// Sends what has been gathered, and waits until the component has it and what others are sending. Answers whether
    /// there was anything.
    @discardableResult private func flush() -> Bool {
        let (batch, session, isBusy) = state.withLock { state in
            let isBusy = state.sending > 0
            return (state.take(), state.session, isBusy)
        }
        if let batch { send(batch, session) }
        if isBusy { waitForOthers(until: .after(StorageMount.patience)) }
        return batch != nil || isBusy
    }

    private func waitForOthers(until deadline: Deadline) {
        while !deadline.hasPassed {
            let seen = lego_atomic_load_u32(ends)
            if state.withLock({ $0.sending == 0 }) { return }
            Futex.wait(ends, while: seen, until: deadline)
        }
    }

    /// What is lost of this costs the storage component memory until the session ends, and nothing else.
    private func send(_ batch: ProcessorStorageForget, _ session: UInt32) {
        defer {
            state.withLock { $0.sending -= 1 }
            _ = lego_atomic_add_u32(ends, 1)
            Futex.wake(ends, count: .max)
        }
        guard let current = link.current, current.number == session else { return }
        _ = link.node.call(
            current.peer, StorageFunction.forget, batch, answer: StorageNothing.self,
            until: .after(StorageMount.patience))
    }
}
