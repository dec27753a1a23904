import CLinux
import Glibc
import Kernel
import Lite
import Synchronization
import Wire

/// Tells a storage component that is slow, as a disk may be, from one that is gone without a word: a host that hangs, a
/// network that swallows. When calls are under way and none has ended for a second, it asks the component, whose poller
/// answers whatever its disks do; without an answer the connection is ended, so that the calls end and can touch this
/// node's memory no more.
final class StorageWatch: Sendable {
    private static let interval: Duration = .seconds(1)
    /// Two intervals and this are the longest that a call waits for a component that is gone.
    private static let answerTimeout: Duration = .seconds(2)

    private let link: StorageLink
    private let underWay = Atomic<Int>(0)
    private let ended = Atomic<UInt64>(0)
    private let thread = Mutex<KernelThread?>(nil)
    /// 1 when the thread shall end. Waited on with futex(2).
    private nonisolated(unsafe) let stopping: UnsafeMutablePointer<UInt32>

    init(link: StorageLink) {
        self.link = link
        stopping = .allocate(capacity: 1)
        stopping.initialize(to: 0)
    }

    deinit { stopping.deallocate() }

    func start() throws(KernelError) {
        let started = try KernelThread(name: "mount-watch") { [self] in run() }
        thread.withLock { $0 = started }
    }

    func stop() {
        lego_atomic_store_u32(stopping, 1)
        Futex.wake(stopping, count: .max)
        thread.join()
    }

    /// Around every call. Any thread; two atomic additions.
    func begin() { underWay.add(1, ordering: .relaxed) }
    func end() {
        underWay.subtract(1, ordering: .relaxed)
        ended.add(1, ordering: .relaxed)
    }

    private func run() {
        var last = ended.load(ordering: .relaxed)
        while lego_atomic_load_u32(stopping) == 0 {
            Futex.wait(stopping, while: 0, until: .after(Self.interval))
            let now = ended.load(ordering: .relaxed)
            defer { last = now }
            if now != last || underWay.load(ordering: .relaxed) == 0 { continue }
            guard let session = link.current else { continue }
            let (status, _) = link.node.call(
                session.peer, StorageFunction.ping, StorageNothing(), answer: StorageNothing.self,
                until: .after(Self.answerTimeout))
            if !status.isOK { link.fence(session) }
        }
    }
}
