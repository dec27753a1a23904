import CLinux
import Glibc
import Kernel
import Synchronization

/// Completions of a soft device's queue pairs: a ring that any thread adds to and one thread at a time takes from.
/// Polling also moves data: it matches what has arrived with the posted receives.
public final class SoftCompletionQueue: CompletionQueue, @unchecked Sendable {
    private let capacity: Int
    private let mask: Int
    private let ring: UnsafeMutablePointer<WorkCompletion>
    /// Guards the ring's writing end. Innermost: nothing is taken under it.
    private let producers = SpinLock()
    private let tail = Atomic<Int>(0)
    private let head = Atomic<Int>(0)
    /// Completions in the ring, and places promised to operations that have begun.
    private let taken = Atomic<Int>(0)
    /// An operation found no place: the poll that makes one carries it on.
    private let isShort = Atomic<Bool>(false)

    /// Guards `pairs` and `pairCount`: held while polling walks over them.
    private let walk = SpinLock()
    private var pairs: UnsafeMutablePointer<Unmanaged<SoftQueuePair>>
    private var pairCapacity = 8
    private var pairCount = 0

    /// How many of them have a socket that does not wake the device's thread.
    private let leftCount = Atomic<Int>(0)

    private let event: EventDescriptor
    /// One page that peers on the same host map: its first word says that somebody wants to be notified.
    let page: MemoryFile
    private let armedWord: UnsafeMutablePointer<UInt32>

    init(capacity: Int) throws(KernelError) {
        self.capacity = capacity
        mask = ringMask(capacity)
        event = try EventDescriptor()
        let descriptor = try Descriptor(checking: "memfd_create", lego_memfd_create_fixed("lego-cq", 4096))
        page = try MemoryFile(mapping: descriptor, bytes: 4096)
        armedWord = page.base.assumingMemoryBound(to: UInt32.self)
        ring = .allocate(capacity: mask + 1)
        pairs = .allocate(capacity: pairCapacity)
    }

    deinit {
        ring.deallocate()
        pairs.deallocate()
    }

    public var notificationDescriptor: Int32 { event.raw }

    public func arm() {
        lego_atomic_store_u32(armedWord, 1)
        lego_atomic_fence()
        if leftCount.load(ordering: .sequentiallyConsistent) != 0 { takeUp() }
    }

    @inline(never)
    private func takeUp() {
        walk.lock()
        for index in 0..<pairCount { pairs[index]._withUnsafeGuaranteedRef { $0.takeUp() } }
        walk.unlock()
    }

    /// A pair's socket is left to whoever polls here, or no longer.
    func noteLeft(_ isLeft: Bool) { leftCount.add(isLeft ? 1 : -1, ordering: .sequentiallyConsistent) }

    public func acknowledge() { event.drain() }

    /// Cost: some 10 ns when there is nothing; a copy per message received.
    public func poll(into completions: UnsafeMutableBufferPointer<WorkCompletion>) -> Int {
        let count = take(completions, from: 0)
        // What waits for a place is carried on even by a poll that has enough: there may be no other event for it.
        if isShort.load(ordering: .sequentiallyConsistent) {
            isShort.store(false, ordering: .sequentiallyConsistent)
        } else if count == completions.count {
            return count
        }
        var poll = Poll(completions: completions, count: count)
        progress(&poll)
        return poll.count &+ take(completions, from: poll.count)
    }

    /// A poll under way: where it takes completions to.
    struct Poll {
        let completions: UnsafeMutableBufferPointer<WorkCompletion>
        var count: Int

        /// Takes nothing.
        static var nobody: Poll { Poll(completions: UnsafeMutableBufferPointer(start: nil, count: 0), count: 0) }

        @inline(__always)
        var room: UnsafeMutableBufferPointer<WorkCompletion> {
            UnsafeMutableBufferPointer(rebasing: completions[count...])
        }
    }

    /// Whether nothing waits in the ring. What the caller, as a pair's driver, hands straight to a poll then comes after
    /// all that former drivers of the pair have added.
    @inline(__always)
    var isEmpty: Bool { head.load(ordering: .relaxed) == tail.load(ordering: .acquiring) }

    /// Takes completions off the ring into `completions[from...]`.
    private func take(_ completions: UnsafeMutableBufferPointer<WorkCompletion>, from: Int) -> Int {
        let first = head.load(ordering: .relaxed)
        let count = min(tail.load(ordering: .acquiring) &- first, completions.count &- from)
        if count == 0 { return 0 }
        for index in 0..<count { completions[from &+ index] = ring[(first &+ index) & mask] }
        head.store(first &+ count, ordering: .releasing)
        taken.wrappingSubtract(count, ordering: .sequentiallyConsistent)
        return count
    }

    /// Lets every queue pair carry on what it can.
    @inline(__always)
    private func progress(_ poll: inout Poll) {
        walk.lock()
        for index in 0..<pairCount { pairs[index]._withUnsafeGuaranteedRef { $0.progress(on: self, &poll) } }
        walk.unlock()
    }

    // MARK: For queue pairs

    /// Promises a place; false when the ring is full, in which case the operation waits until a poll has made room.
    @inline(__always)
    func reserve() -> Bool {
        // Acquires what a poll released: it is through with the slot that this place will be.
        if taken.wrappingAdd(1, ordering: .acquiring).newValue <= capacity { return true }
        return reserveAgain()
    }

    /// Either the poll that makes room sees the note, or this sees the room.
    @inline(never)
    private func reserveAgain() -> Bool {
        isShort.store(true, ordering: .sequentiallyConsistent)
        taken.wrappingSubtract(1, ordering: .sequentiallyConsistent)
        if taken.wrappingAdd(1, ordering: .sequentiallyConsistent).newValue <= capacity { return true }
        taken.wrappingSubtract(1, ordering: .relaxed)
        return false
    }

    /// Gives a promised place back.
    @inline(__always)
    func cancelReservation() { taken.wrappingSubtract(1, ordering: .relaxed) }

    /// Adds a completion to a promised place. Whoever has armed is to be notified after it.
    @inline(__always)
    func add(_ completion: WorkCompletion) {
        var one = completion
        withUnsafeMutablePointer(to: &one) { add(UnsafeMutableBufferPointer(start: $0, count: 1)) }
    }

    /// Adds a completion to a promised place and notifies whoever has armed.
    @inline(__always)
    func push(_ completion: WorkCompletion) {
        add(completion)
        notifyIfArmed()
    }

    /// `add` for several.
    @inline(__always)
    func add(_ completions: UnsafeMutableBufferPointer<WorkCompletion>) {
        producers.lock()
        let first = tail.load(ordering: .relaxed)
        for index in 0..<completions.count { ring[(first &+ index) & mask] = completions[index] }
        tail.store(first &+ completions.count, ordering: .releasing)
        producers.unlock()
    }

    @inline(never)
    private func notify() { if lego_atomic_exchange_u32(armedWord, 0) != 0 { event.signal() } }

    /// Whether somebody waits for a notification.
    var isArmed: Bool { lego_atomic_load_u32(armedWord) != 0 }

    /// Wakes whoever has armed: something has been added, or data waits that polling will complete.
    @inline(__always)
    func notifyIfArmed() {
        lego_atomic_fence()
        notifyIfSeenArmed()
    }

    /// The same for a caller that has passed a full barrier since: either this sees the arming, or the poll that follows the
    /// arming sees what was added.
    @inline(__always)
    func notifyIfSeenArmed() { if lego_atomic_load_u32(armedWord) != 0 { notify() } }

    /// Adds a queue pair to what polling walks over. The device keeps the pair alive until `detach`.
    func attach(_ pair: SoftQueuePair) {
        walk.lock()
        defer { walk.unlock() }
        if pairCount == pairCapacity {
            let larger = UnsafeMutablePointer<Unmanaged<SoftQueuePair>>.allocate(capacity: pairCapacity * 2)
            larger.initialize(from: pairs, count: pairCount)
            pairs.deallocate()
            pairs = larger
            pairCapacity *= 2
        }
        (pairs + pairCount).initialize(to: Unmanaged.passUnretained(pair))
        pairCount += 1
    }

    func detach(_ pair: SoftQueuePair) {
        walk.lock()
        defer { walk.unlock() }
        for index in 0..<pairCount where pairs[index].toOpaque() == Unmanaged.passUnretained(pair).toOpaque() {
            pairCount -= 1
            pairs[index] = pairs[pairCount]
            return
        }
    }
}
