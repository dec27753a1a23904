import CLinux
import Glibc
import Synchronization

/// A thread of the data plane. The control plane uses Swift concurrency; whatever blocks or spins runs on one of these.
public final class KernelThread: @unchecked Sendable {
    // Written before pthread_create returns and only read afterwards; `joined` is the owner's alone.
    private var thread = pthread_t()
    private var joined = false

    private final class Start {
        let name: String
        let body: @Sendable () -> Void
        init(name: String, body: @escaping @Sendable () -> Void) {
            self.name = name
            self.body = body
        }
    }

    /// Starts a thread. `name` is what `top -H` shows (15 bytes).
    public init(name: String, _ body: @escaping @Sendable () -> Void) throws(KernelError) {
        let start = Unmanaged.passRetained(Start(name: name, body: body))
        let result = pthread_create(
            &thread, nil,
            { argument in
                let start = Unmanaged<Start>.fromOpaque(argument!).takeRetainedValue()
                lego_thread_set_name(start.name)
                start.body()
                return nil
            }, start.toOpaque())
        if result != 0 {
            start.release()
            throw KernelError("pthread_create", result)
        }
    }

    deinit { if !joined { pthread_detach(thread) } }

    /// Waits for the thread to end. Only the owner calls this, once.
    public func join() {
        if joined { return }
        joined = true
        pthread_join(thread, nil)
    }
}

extension Mutex<KernelThread?> {
    /// Takes the thread, if there is one, and waits for its end, without the lock. Whoever calls has told it to end.
    public borrowing func join() {
        let running = withLock { thread in
            defer { thread = nil }
            return thread
        }
        running?.join()
    }
}
