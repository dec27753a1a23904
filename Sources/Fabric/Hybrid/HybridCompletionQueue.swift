import Kernel
import Synchronization

/// A completion queue of a `HybridDevice`: completions of pairs of either kind.
public final class HybridCompletionQueue: CompletionQueue, @unchecked Sendable {
    let soft: SoftCompletionQueue
    private let device: VerbsDevice?
    private let capacity: Int
    /// Readable when either queue's descriptor is; nil where there is no adapter.
    private let either: Epoll?
    private let made = Mutex<VerbsCompletionQueue?>(nil)
    /// The object that `made` holds, 0 until then: set once, with the first pair over verbs.
    private let verbsWord = Atomic<UInt>(0)

    init(_ soft: SoftCompletionQueue, _ device: VerbsDevice?, capacity: Int) throws(FabricError) {
        self.soft = soft
        self.device = device
        self.capacity = capacity
        do throws(KernelError) {
            if device == nil {
                either = nil
            } else {
                let either = try Epoll()
                try either.add(soft.notificationDescriptor, token: 0)
                self.either = consume either
            }
        } catch {
            throw .system(error)
        }
    }

    /// The adapter's queue, made for the first pair that needs it.
    func verbsQueue() throws(FabricError) -> VerbsCompletionQueue {
        try made.withLock { made throws(FabricError) in
            if let made { return made }
            guard let device else { throw .invalid("a completion queue of another device: it must be this device's") }
            let queue = try device.makeCompletionQueue(capacity: capacity)
            do throws(KernelError) {
                try either?.add(queue.notificationDescriptor, token: 1)
            } catch {
                throw .system(error)
            }
            made = queue
            verbsWord.store(UInt(bitPattern: Unmanaged.passUnretained(queue).toOpaque()), ordering: .releasing)
            // For a thread that sleeps already, having armed the other one.
            queue.arm()
            return queue
        }
    }

    /// Runs `body` on the adapter's queue, if there is one. It lives as long as this object.
    @inline(__always)
    private func withVerbs<Value>(_ otherwise: Value, _ body: (VerbsCompletionQueue) -> Value) -> Value {
        guard let pointer = UnsafeRawPointer(bitPattern: verbsWord.load(ordering: .acquiring)) else { return otherwise }
        return Unmanaged<VerbsCompletionQueue>.fromOpaque(pointer)._withUnsafeGuaranteedRef(body)
    }

    public func poll(into completions: UnsafeMutableBufferPointer<WorkCompletion>) -> Int {
        let count = soft.poll(into: completions)
        return withVerbs(count) { verbs in
            if count == completions.count { return count }
            return count + verbs.poll(into: UnsafeMutableBufferPointer(rebasing: completions[count...]))
        }
    }

    public var notificationDescriptor: Int32 {
        switch either {
        case .some(let either): either.raw
        case .none: soft.notificationDescriptor
        }
    }

    public func arm() {
        soft.arm()
        withVerbs(()) { $0.arm() }
    }

    public func acknowledge() {
        soft.acknowledge()
        withVerbs(()) { $0.acknowledge() }
    }
}
