import Fabric
import Glibc
import Kernel
import Synchronization
import Testing

/// What a check ran into.
struct LabError: Error, CustomStringConvertible {
    var description: String
    init(_ description: String) { self.description = description }
}

/// Nothing in a check takes longer than this, on the slowest machine; what does has hung.
let labTimeout: Duration = .seconds(60)

/// One side of a connection with its memory and queues. Used by one thread at a time.
final class Side<Device: RDMADevice>: @unchecked Sendable {
    let device: Device
    let queue: Device.Queue
    let region: Device.Region
    let pair: Device.Pair
    private var pending: [WorkCompletion] = []

    init(device: Device, queue: Device.Queue, region: Device.Region, pair: Device.Pair) {
        self.device = device
        self.queue = queue
        self.region = region
        self.pair = pair
    }

    var bytes: UnsafeMutableRawBufferPointer { UnsafeMutableRawBufferPointer(start: region.base, count: region.count) }

    func element(_ offset: Int, _ count: Int) -> ScatterElement {
        ScatterElement(address: region.base + offset, count: count, localKey: region.localKey)
    }

    /// Posts a request; `configure` sets what the opcode needs.
    func post(
        _ opcode: WorkOpcode, _ elements: [ScatterElement], id: UInt64 = 1,
        to remote: (key: UInt32, address: UInt64)? = nil,
        _ configure: (inout WorkRequest) -> Void = { _ in }
    ) -> Bool {
        elements.withUnsafeBufferPointer { local in
            var request = WorkRequest(opcode, local: local)
            request.id = id
            if let remote {
                request.remoteKey = remote.key
                request.remoteAddress = remote.address
            }
            configure(&request)
            return pair.postSend(request)
        }
    }

    func postReceive(_ elements: [ScatterElement], id: UInt64 = 100) -> Bool {
        elements.withUnsafeBufferPointer { pair.postReceive(id: id, local: $0) }
    }

    /// Where a peer finds this side's memory.
    func remote(_ offset: Int = 0) -> (key: UInt32, address: UInt64) {
        (region.remoteKey, region.remoteAddress + UInt64(offset))
    }

    /// Fills `count` bytes from `offset` with a pattern of `seed`.
    func fill(_ offset: Int, _ count: Int, seed: Int) {
        var word = UInt64(truncatingIfNeeded: seed) &* 0x9e37_79b9_7f4a_7c15 | 1
        var index = offset
        while index < offset + count {
            word ^= word << 13
            word ^= word >> 7
            word ^= word << 17
            let piece = min(8, offset + count - index)
            withUnsafeBytes(of: &word) { (region.base + index).copyMemory(from: $0.baseAddress!, byteCount: piece) }
            index += piece
        }
    }

    /// Waits for the next completion, as a daemon does: polls, arms, polls once more, sleeps.
    func next() throws -> WorkCompletion {
        let deadline = Deadline.after(labTimeout)
        while true {
            if let completion = poll() { return completion }
            queue.arm()
            if let completion = poll() { return completion }
            var entry = pollfd(fd: queue.notificationDescriptor, events: Int16(POLLIN), revents: 0)
            _ = Glibc.poll(&entry, 1, deadline.pollMilliseconds)
            queue.acknowledge()
            if deadline.hasPassed { throw LabError("no completion within \(labTimeout)") }
        }
    }

    /// The next completion, which must have this status.
    @discardableResult
    func expectNext(
        _ status: WorkStatus, _ kind: WorkCompletion.Kind? = nil, sourceLocation: SourceLocation = #_sourceLocation
    ) throws -> WorkCompletion {
        let completion = if let kind { try next(kind) } else { try next() }
        #expect(completion.status == status, "\(completion)", sourceLocation: sourceLocation)
        return completion
    }

    /// The next completion if there is one.
    func poll() -> WorkCompletion? {
        var one = WorkCompletion(id: 0, status: .success, kind: .send, queuePair: 0)
        let count = withUnsafeMutablePointer(to: &one) {
            queue.poll(into: UnsafeMutableBufferPointer(start: $0, count: 1))
        }
        return count == 1 ? one : nil
    }

    /// The next completion of a kind; others are kept for later calls.
    func next(_ kind: WorkCompletion.Kind) throws -> WorkCompletion {
        if let index = pending.firstIndex(where: { $0.kind == kind }) { return pending.remove(at: index) }
        while true {
            let completion = try next()
            if completion.kind == kind { return completion }
            pending.append(completion)
        }
    }
}

/// How a check gets devices of the kind that it runs on.
struct Bench<Device: RDMADevice>: Sendable {
    let make: @Sendable () throws -> Device
    /// Makes the device that connects, where it differs.
    var makeLeft: (@Sendable () throws -> Device)?
    /// Where the devices listen.
    let host: String
    /// What is done to both ends of every connection while it is prepared.
    var prepare: @Sendable (Device.Pair) throws(FabricError) -> Void = { _ in }

    init(make: @escaping @Sendable () throws -> Device, makeLeft: (@Sendable () throws -> Device)? = nil, host: String)
    {
        self.make = make
        self.makeLeft = makeLeft
        self.host = host
    }

    /// Whether the device may answer so where it should answer `status`. Soft-RoCE flushes a request that it finds at
    /// fault itself, and so loses the reason (`flush_send_queue` in its `rxe_comp.c`).
    func accepts(_ answer: WorkStatus, for status: WorkStatus) -> Bool {
        answer == status || (Device.self == VerbsDevice.self && status == .localProtection && answer == .flushed)
    }

    /// Two devices and a connection; closed afterwards.
    func withLab<Value>(
        bytes: Int = 1 << 20, parameters: QueuePairParameters = QueuePairParameters(), capacity: Int? = nil,
        rightAccess: RemoteAccess = .all, _ body: (Lab<Device>) throws -> Value
    ) throws -> Value {
        let left = try (makeLeft ?? make)()
        defer { left.close() }
        let right = try make()
        defer { right.close() }
        let address = try right.listen(on: FabricAddress(host: host, port: 0))
        let plan = Plan(bytes: bytes, parameters: parameters, capacity: capacity, rightAccess: rightAccess)
        let lab = Lab(
            address: address, sides: try connectSides(left, right, address, plan, prepare), plan: plan, prepare: prepare
        )
        return try body(lab)
    }
}

/// The sizes of a connection.
struct Plan: Sendable {
    var bytes = 4096
    var parameters = QueuePairParameters()
    /// Of each completion queue; nil: enough for all that can be posted.
    var capacity: Int?
    var rightAccess = RemoteAccess.all
}

/// Two connected sides on two devices of this process.
final class Lab<Device: RDMADevice>: @unchecked Sendable {
    let left: Side<Device>
    let right: Side<Device>
    let address: FabricAddress
    let plan: Plan
    private let prepare: @Sendable (Device.Pair) throws(FabricError) -> Void

    init(
        address: FabricAddress, sides: (Side<Device>, Side<Device>), plan: Plan,
        prepare: @escaping @Sendable (Device.Pair) throws(FabricError) -> Void
    ) {
        self.address = address
        (left, right) = sides
        self.plan = plan
        self.prepare = prepare
    }

    /// Another connection between the same devices.
    func connectAgain() throws -> (Side<Device>, Side<Device>) {
        try connectSides(left.device, right.device, address, plan, prepare)
    }
}

/// Connects `left` to the listening `right`, each with a region and a queue of its own.
func connectSides<Device: RDMADevice>(
    _ left: Device, _ right: Device, _ address: FabricAddress, _ plan: Plan,
    _ prepare: @escaping @Sendable (Device.Pair) throws(FabricError) -> Void = { _ in }
) throws -> (Side<Device>, Side<Device>) {
    let parameters = plan.parameters
    let capacity = plan.capacity ?? parameters.sendRequests_max + parameters.receiveRequests_max
    let accepted = Mutex<Result<Side<Device>, any Error>?>(nil)
    let acceptor = try KernelThread(name: "acceptor") {
        let result = Result<Side<Device>, any Error> {
            guard let request = try right.nextRequest(until: .after(labTimeout)) else { throw LabError("no request") }
            guard request.privateData.starts(with: [1, 2, 3]) else { throw LabError("private data differs") }
            let queue = try right.makeCompletionQueue(capacity: capacity)
            let region = try right.allocate(bytes: plan.bytes, access: plan.rightAccess)
            let pair = try request.accept(
                send: queue, receive: queue, parameters: parameters, privateData: [4, 5],
                prepare: prepare)
            return Side(device: right, queue: queue, region: region, pair: pair)
        }
        accepted.withLock { $0 = result }
    }
    let queue = try left.makeCompletionQueue(capacity: capacity)
    let region = try left.allocate(bytes: plan.bytes, access: .all)
    let result = Result {
        try left.connect(
            to: address, send: queue, receive: queue, parameters: parameters, privateData: [1, 2, 3],
            until: .after(labTimeout), prepare: prepare)
    }
    // Nothing comes for the acceptor to wait for.
    if case .failure = result { right.close() }
    acceptor.join()
    let (pair, answer) = try result.get()
    guard answer.starts(with: [4, 5]) else { throw LabError("the acceptor's private data differs") }
    guard let other = accepted.withLock({ $0 }) else { throw LabError("the acceptor did not finish") }
    return (Side(device: left, queue: queue, region: region, pair: pair), try other.get())
}

/// Whether two stretches of memory are equal.
func areEqual<Device>(_ left: Side<Device>, _ leftOffset: Int, _ right: Side<Device>, _ rightOffset: Int, _ count: Int)
    -> Bool
{
    memcmp(left.region.base + leftOffset, right.region.base + rightOffset, count) == 0
}
