import CLite
import Kernel

/// What may wait for another node.
enum DeferredOperation {
    case submission(ServiceChannel, lite_submission)
    /// A program has ended: what it had is given back.
    case end(Session)
    /// A call that nobody will answer: its caller is told.
    case refuse(IncomingCall)
}

/// Operations that may wait for the same node, in their order. Only so many threads wait for them at a time: a node
/// that is silent holds those, and what else is meant for it waits here and holds none.
final class Lane: @unchecked Sendable {
    private let threads_max: Int
    private let lock = AdaptiveLock()
    // Protected by `lock`.
    private var pending = Ring<DeferredOperation>()
    private var running = 0

    init(threads_max: Int) { self.threads_max = threads_max }

    /// Adds an operation. Answers whether a thread more is to run the lane, and counts it.
    func add(_ operation: DeferredOperation) -> Bool {
        lock.lock()
        defer { lock.unlock() }
        pending.append(operation)
        if running == threads_max { return false }
        running += 1
        return true
    }

    /// The next operation for a thread that runs the lane; with nil the thread leaves it.
    func next() -> DeferredOperation? {
        lock.lock()
        defer { lock.unlock() }
        let operation = pending.popFirst()
        if operation == nil { running -= 1 }
        return operation
    }

    var pendingCount: Int {
        lock.lock()
        defer { lock.unlock() }
        return pending.count
    }
}

/// First in, first out; takes memory when it grows and keeps it. Not safe by itself.
struct Ring<Element> {
    private var elements: [Element?] = []
    private var first = 0
    private(set) var count = 0
    var isEmpty: Bool { count == 0 }

    mutating func append(_ element: Element) {
        if count == elements.count {
            var larger = [Element?](repeating: nil, count: max(8, 2 * count))
            for index in 0..<count { larger[index] = elements[(first + index) % elements.count] }
            elements = larger
            first = 0
        }
        elements[(first + count) % elements.count] = element
        count += 1
    }

    mutating func popFirst() -> Element? {
        if count == 0 { return nil }
        defer {
            elements[first] = nil
            first = (first + 1) % elements.count
            count -= 1
        }
        return elements[first]
    }

    /// Takes everything out, oldest first.
    mutating func popAll() -> [Element] {
        var all: [Element] = []
        while let element = popFirst() { all.append(element) }
        return all
    }

    /// Takes out what satisfies a condition.
    mutating func removeAll(where isGone: (Element) -> Bool) {
        for _ in 0..<count {
            if let element = popFirst(), !isGone(element) { append(element) }
        }
    }
}

/// The lanes of a service. Safe on any thread; the lock is a leaf.
final class LaneTable: Sendable {
    /// What asks all nodes, or some that are not known before.
    let search: Lane
    /// What concerns this node, but takes longer than the leader should; and programs that ended.
    let own: Lane
    private let lanes = AdaptiveLock()
    nonisolated(unsafe) private var byNode: [UInt64: Lane] = [:]  // Protected by `lanes`.
    private let perNode: Int

    /// `perNode`: operations on one node that go on at a time.
    init(perNode: Int) {
        self.perNode = perNode
        search = Lane(threads_max: 2 * perNode)
        own = Lane(threads_max: 2 * perNode)
    }

    /// The lane of another node; it goes with the node.
    func of(_ node: UInt64) -> Lane {
        lanes.lock()
        defer { lanes.unlock() }
        if let lane = byNode[node] { return lane }
        let lane = Lane(threads_max: perNode)
        byNode[node] = lane
        return lane
    }

    /// A lost node's lane: what is in it fails, and nothing new comes.
    func remove(_ node: UInt64) {
        lanes.lock()
        byNode[node] = nil
        lanes.unlock()
    }
}
