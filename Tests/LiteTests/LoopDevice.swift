import CLinux
import Fabric
import Glibc
import Kernel
import Synchronization

/// A device within one process whose link a test can hold and let go, so that completions come when the test says: for the paths
/// that a device which completes at posting never takes. Slow and simple: one lock over everything.
final class LoopNetwork: @unchecked Sendable {
    let lock = Mutex<Void>(())
    // Protected by `lock`.
    private var devices: [UInt16: LoopDevice] = [:]
    fileprivate var regions: [UInt32: LoopRegion] = [:]
    fileprivate var pending: [(LoopPair, LoopWork)] = []
    private var isHeld = false
    private var nextNumber: UInt32 = 1
    fileprivate func number() -> UInt32 {
        defer { nextNumber += 1 }
        return nextNumber
    }

    fileprivate func attach(_ device: LoopDevice, port: UInt16) -> UInt16 {
        let port = port == 0 ? UInt16(40_000 + number()) : port
        devices[port] = device
        return port
    }
    fileprivate func detach(_ port: UInt16) { devices[port] = nil }
    fileprivate func device(_ port: UInt16) -> LoopDevice? { devices[port] }

    private(set) var sends_max = Int.max
    /// Lets every queue pair hold fewer requests than it promised.
    func limitSends(to count: Int) { lock.withLock { _ in sends_max = count } }

    /// From now on requests are accepted but do nothing.
    func hold() { lock.withLock { _ in isHeld = true } }

    /// Executes what was held, in order.
    func letGo() {
        lock.withLock { _ in
            isHeld = false
            let work = pending
            pending = []
            for (pair, request) in work { pair.executeLocked(request) }
        }
    }

    /// How many requests are held.
    var heldCount: Int { lock.withLock { _ in pending.count } }

    fileprivate func submitLocked(_ pair: LoopPair, _ work: LoopWork) {
        if isHeld { pending.append((pair, work)) } else { pair.executeLocked(work) }
    }

    fileprivate func takePendingLocked(of pair: LoopPair) -> [LoopWork] {
        defer { pending.removeAll { $0.0 === pair } }
        return pending.filter { $0.0 === pair }.map { $0.1 }
    }
}

struct LoopWork: @unchecked Sendable {
    var id: UInt64
    var opcode: WorkOpcode
    var local: [ScatterElement]
    var remoteAddress: UInt64
    var remoteKey: UInt32
    var immediate: UInt32
    var operand: UInt64
    var swap: UInt64
    var isSignaled: Bool
}

final class LoopRegion: MemoryRegion, @unchecked Sendable {
    let base: UnsafeMutableRawPointer
    let count: Int
    let access: RemoteAccess
    let network: LoopNetwork
    let remoteKey: UInt32
    var localKey: UInt32 { remoteKey }
    var remoteAddress: UInt64 { UInt64(UInt(bitPattern: base)) }

    init(bytes: Int, access: RemoteAccess, network: LoopNetwork) {
        // Only what is touched takes memory, as with a real device.
        base = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        precondition(base != MAP_FAILED, "no memory for a test region")
        count = bytes
        self.access = access
        self.network = network
        remoteKey = network.lock.withLock { _ in network.number() }
        network.lock.withLock { _ in network.regions[remoteKey] = self }
    }
    deinit { munmap(base, count) }
    func deregister() { network.lock.withLock { _ in network.regions[remoteKey] = nil } }
    func contains(_ address: UInt64, _ bytes: UInt64) -> Bool {
        address >= remoteAddress && bytes <= UInt64(count) && address - remoteAddress <= UInt64(count) - bytes
    }
}

final class LoopQueue: CompletionQueue, @unchecked Sendable {
    private let event: EventDescriptor
    private let state = Mutex<(completions: [WorkCompletion], isArmed: Bool)>(([], false))
    init() throws(KernelError) { event = try EventDescriptor() }
    func poll(into completions: UnsafeMutableBufferPointer<WorkCompletion>) -> Int {
        state.withLock { state in
            let count = min(completions.count, state.completions.count)
            for index in 0..<count { completions[index] = state.completions[index] }
            state.completions.removeFirst(count)
            return count
        }
    }
    var notificationDescriptor: Int32 { event.raw }
    func arm() { state.withLock { $0.isArmed = true } }
    func acknowledge() { event.drain() }
    func add(_ completion: WorkCompletion) {
        state.withLock { state in
            state.completions.append(completion)
            if state.isArmed { event.signal() }
            state.isArmed = false
        }
    }
}

final class LoopPair: QueuePair, @unchecked Sendable {
    typealias Region = LoopRegion
    let number: UInt32
    let link = LinkKind.sharedMemory
    let network: LoopNetwork
    private let send: LoopQueue
    private let receive: LoopQueue
    private let sendRequests_max: Int
    // Protected by the network's lock.
    fileprivate var other: LoopPair?
    private var receives: [UInt64] = []
    fileprivate var isBroken = false

    fileprivate init(_ network: LoopNetwork, send: LoopQueue, receive: LoopQueue, _ parameters: QueuePairParameters) {
        self.network = network
        self.send = send
        self.receive = receive
        sendRequests_max = parameters.sendRequests_max
        number = network.lock.withLock { _ in network.number() }
    }

    func postSend(_ request: borrowing WorkRequest) -> Bool {
        let work = LoopWork(
            id: request.id, opcode: request.opcode, local: Array(request.local), remoteAddress: request.remoteAddress,
            remoteKey: request.remoteKey, immediate: request.immediate, operand: request.operand, swap: request.swap,
            isSignaled: request.isSignaled)
        return network.lock.withLock { _ in
            if network.pending.count(where: { $0.0 === self }) >= min(sendRequests_max, network.sends_max) {
                return false
            }
            network.submitLocked(self, work)
            return true
        }
    }

    func postReceive(id: UInt64, local: UnsafeBufferPointer<ScatterElement>) -> Bool {
        network.lock.withLock { _ in
            if isBroken { completeReceive(id, .flushed) } else { receives.append(id) }
            return true
        }
    }

    var isConnected: Bool { network.lock.withLock { _ in !isBroken } }

    func disconnect() {
        network.lock.withLock { _ in
            let other = other
            breakLocked()
            other?.breakLocked()
        }
    }

    private func breakLocked() {
        if isBroken { return }
        isBroken = true
        for work in network.takePendingLocked(of: self) { complete(work, .flushed) }
        for id in receives { completeReceive(id, .flushed) }
        receives = []
        other = nil
    }

    private func complete(_ work: LoopWork, _ status: WorkStatus) {
        if status == .success && !work.isSignaled { return }
        send.add(WorkCompletion(id: work.id, status: status, kind: .send, queuePair: number))
    }

    private func completeReceive(_ id: UInt64, _ status: WorkStatus, count: Int = 0, immediate: UInt32 = 0) {
        receive.add(
            WorkCompletion(
                id: id, status: status, kind: .receiveImmediate, count: UInt32(count), immediate: immediate,
                queuePair: number))
    }

    fileprivate func executeLocked(_ work: LoopWork) {
        guard !isBroken, let other else { return complete(work, .flushed) }
        let status = runLocked(work, other)
        complete(work, status)
        if status != .success {
            breakLocked()
            other.breakLocked()
        }
    }

    private func runLocked(_ work: LoopWork, _ other: LoopPair) -> WorkStatus {
        let bytes = work.local.reduce(0) { $0 + Int($1.count) }
        let right: RemoteAccess =
            switch work.opcode {
            case .read: .read
            case .fetchAdd, .compareSwap: .atomic
            default: .write
            }
        guard let region = network.regions[work.remoteKey], region.access.contains(right),
            region.contains(work.remoteAddress, UInt64(bytes))
        else { return .remoteAccess }
        var remote = UnsafeMutableRawPointer(bitPattern: UInt(work.remoteAddress))!
        switch work.opcode {
        case .read, .write, .writeWithImmediate:
            for piece in work.local {
                if work.opcode == .read {
                    piece.address.copyMemory(from: remote, byteCount: Int(piece.count))
                } else {
                    remote.copyMemory(from: piece.address, byteCount: Int(piece.count))
                }
                remote += Int(piece.count)
            }
        case .fetchAdd, .compareSwap:
            let former = remote.load(as: UInt64.self)
            work.local[0].address.storeBytes(of: former, as: UInt64.self)
            if work.opcode == .fetchAdd {
                remote.storeBytes(of: former &+ work.operand, as: UInt64.self)
            } else if former == work.operand {
                remote.storeBytes(of: work.swap, as: UInt64.self)
            }
        case .send: return .remoteOperation
        }
        if work.opcode == .writeWithImmediate {
            if other.receives.isEmpty { return .receiverNotReady }
            other.completeReceive(other.receives.removeFirst(), .success, count: bytes, immediate: work.immediate)
        }
        return .success
    }
}

final class LoopRequest: ConnectionRequest, @unchecked Sendable {
    let privateData: [UInt8]
    fileprivate let initiator: LoopPair
    private let answerState = Mutex<(isAnswered: Bool, answer: [UInt8]?)>((false, nil))
    private let word: UnsafeMutablePointer<UInt32>

    fileprivate init(_ initiator: LoopPair, privateData: [UInt8]) {
        self.initiator = initiator
        self.privateData = privateData
        word = .allocate(capacity: 1)
        word.initialize(to: 0)
    }
    deinit { word.deallocate() }

    func accept(
        send: LoopQueue, receive: LoopQueue, parameters: QueuePairParameters, privateData: [UInt8],
        prepare: (LoopPair) throws(FabricError) -> Void
    ) throws(FabricError) -> LoopPair {
        let pair = LoopPair(initiator.network, send: send, receive: receive, parameters)
        do throws(FabricError) { try prepare(pair) } catch {
            reject()
            throw error
        }
        pair.network.lock.withLock { _ in
            pair.other = initiator
            initiator.other = pair
        }
        answer(privateData)
        return pair
    }

    func reject() { answer(nil) }

    private func answer(_ bytes: [UInt8]?) {
        answerState.withLock { if !$0.isAnswered { $0 = (true, bytes) } }
        lego_atomic_store_u32(word, 1)
        Futex.wake(word, count: .max)
    }

    fileprivate func wait(until deadline: Deadline) -> [UInt8]? {
        while lego_atomic_load_u32(word) == 0, !deadline.hasPassed { Futex.wait(word, while: 0, until: deadline) }
        return answerState.withLock { $0.answer }
    }
}

final class LoopDevice: RDMADevice, @unchecked Sendable {
    let network: LoopNetwork
    // Protected by the network's lock.
    private var port: UInt16 = 0
    private var requests: [LoopRequest] = []
    private var isClosed = false
    private var pairs: [LoopPair] = []
    private let word: UnsafeMutablePointer<UInt32>

    init(_ network: LoopNetwork) {
        self.network = network
        word = .allocate(capacity: 1)
        word.initialize(to: 0)
    }
    deinit { word.deallocate() }

    func allocate(bytes: Int, access: RemoteAccess) throws(FabricError) -> LoopRegion {
        LoopRegion(bytes: bytes, access: access, network: network)
    }
    func register(_ memory: UnsafeMutableRawBufferPointer, access: RemoteAccess) throws(FabricError) -> LoopRegion {
        throw .invalid("the loop device registers no foreign memory")
    }
    func makeCompletionQueue(capacity: Int) throws(FabricError) -> LoopQueue {
        do throws(KernelError) { return try LoopQueue() } catch { throw .system(error) }
    }
    func listen(on address: FabricAddress) throws(FabricError) -> FabricAddress {
        let taken = network.lock.withLock { _ in
            port = network.attach(self, port: address.port)
            return port
        }
        return FabricAddress(host: address.host, port: taken)
    }
    private func announce() {
        _ = lego_atomic_add_u32(word, 1)
        Futex.wake(word, count: .max)
    }
    func nextRequest(until deadline: Deadline) throws(FabricError) -> LoopRequest? {
        while true {
            let seen = lego_atomic_load_u32(word)
            let (request, ends) = network.lock.withLock { _ in
                (requests.isEmpty ? nil : requests.removeFirst(), isClosed)
            }
            if request != nil || ends || deadline.hasPassed { return request }
            Futex.wait(word, while: seen, until: deadline)
        }
    }
    func connect(
        to address: FabricAddress, send: LoopQueue, receive: LoopQueue, parameters: QueuePairParameters,
        privateData: [UInt8], until deadline: Deadline, prepare: (LoopPair) throws(FabricError) -> Void
    ) throws(FabricError) -> (LoopPair, privateData: [UInt8]) {
        let pair = LoopPair(network, send: send, receive: receive, parameters)
        try prepare(pair)
        let request = LoopRequest(pair, privateData: privateData)
        let target = network.lock.withLock { _ in
            pairs.removeAll { $0.isBroken }
            pairs.append(pair)
            let target = network.device(address.port)
            target?.requests.append(request)
            return target
        }
        guard let target else { throw .unreachable(address, reason: "nobody listens") }
        target.announce()
        guard let answer = request.wait(until: deadline) else { throw .unreachable(address, reason: "refused") }
        return (pair, answer)
    }
    func close() {
        let open = network.lock.withLock { _ in
            isClosed = true
            network.detach(port)
            for request in requests { request.reject() }
            defer { pairs = [] }
            return pairs
        }
        for pair in open { pair.disconnect() }
        announce()
    }
}
