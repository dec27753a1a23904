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

    let pacer: LinkPacer
    /// How many pairs `paced` holds: 0 but where a link has had a model.
    private let pacedCount = Atomic<Int>(0)
    /// Guards `paced`; held while polling walks over it, outside each pair's lock.
    private let walk = SpinLock()
    /// Pairs with models that send or receive here.
    private var paced: [PacedPair] = []

    init(_ soft: SoftCompletionQueue, _ device: VerbsDevice?, capacity: Int, pacer: LinkPacer) throws(FabricError) {
        self.soft = soft
        self.pacer = pacer
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
        if pacedCount.load(ordering: .relaxed) != 0 { return pollPaced(into: completions) }
        return pollDevices(into: completions)
    }

    @inline(__always)
    private func pollDevices(into completions: UnsafeMutableBufferPointer<WorkCompletion>) -> Int {
        let count = soft.poll(into: completions)
        return withVerbs(count) { verbs in
            if count == completions.count { return count }
            return count + verbs.poll(into: UnsafeMutableBufferPointer(rebasing: completions[count...]))
        }
    }

    // MARK: Link models

    func attach(_ pair: PacedPair) {
        walk.lock()
        paced.append(pair)
        walk.unlock()
        pacedCount.add(1, ordering: .sequentiallyConsistent)
    }

    func detach(_ pair: PacedPair) {
        walk.lock()
        let before = paced.count
        paced.removeAll { $0 === pair }
        let removed = before - paced.count
        walk.unlock()
        pacedCount.subtract(removed, ordering: .sequentiallyConsistent)
    }

    /// As `poll`, with completions of paced requests held until they are due.
    @inline(never)
    private func pollPaced(into completions: UnsafeMutableBufferPointer<WorkCompletion>) -> Int {
        walk.lock()
        defer { walk.unlock() }
        let start = pacer.clock.now()
        for pair in paced { pair.carryOn(start) }
        var kept = 0
        while kept < completions.count {
            let room = UnsafeMutableBufferPointer(rebasing: completions[kept...])
            let count = pollDevices(into: room)
            for index in 0..<count where !hold(room[index]) {
                completions[kept] = room[index]
                kept += 1
            }
            if count < room.count { break }
        }
        let now = pacer.clock.now()
        var next = PacedPair.never
        for pair in paced where pair.queue === soft {
            kept += pair.report(into: completions, from: kept, now: now)
            next = min(next, pair.nextReport)
        }
        // Whoever has armed goes to sleep when this is not all that was asked for.
        if next != PacedPair.never, soft.isArmed { pacer.plan(next) }
        return kept
    }

    @inline(__always)
    private func hold(_ completion: WorkCompletion) -> Bool {
        if completion.kind != .send { return false }
        for pair in paced where pair.number == completion.queuePair && pair.queue === soft {
            return pair.hold(completion)
        }
        return false
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
