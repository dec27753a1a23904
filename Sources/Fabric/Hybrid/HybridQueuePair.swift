import CLinux
import Kernel
import Synchronization

/// A queue pair of a `HybridDevice`: one of either part, and over it the link's model where it has one.
public final class HybridQueuePair: QueuePair, @unchecked Sendable {
    public typealias Region = HybridRegion

    public let number: UInt32
    public let link: LinkKind
    public let pathReason: String
    let kind: Kind
    private let parameters: QueuePairParameters
    private let send: HybridCompletionQueue
    private let receive: HybridCompletionQueue
    /// Made with the first model.
    private let made = Mutex<PacedPair?>(nil)
    /// The object that `made` holds, 0 until then.
    private let pacedWord = Atomic<UInt>(0)
    /// A cache line: requests, bytes out and in, of the posting thread; bytes out and in of direct accesses.
    private let counters: UnsafeMutablePointer<UInt64>

    init(
        _ kind: consuming Kind, parameters: QueuePairParameters, send: HybridCompletionQueue,
        receive: HybridCompletionQueue,
        reason: String
    ) {
        self.parameters = parameters
        self.send = send
        self.receive = receive
        number = kind.number
        link = kind.link
        self.kind = kind
        pathReason = reason
        let line = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 64)
        counters = line.bindMemory(to: UInt64.self, capacity: 8)
        counters.initialize(repeating: 0, count: 8)
    }

    deinit {
        if let paced = made.withLock({ $0 }) {
            send.pacer.remove(paced)
            send.detach(paced)
            receive.detach(paced)
        }
        counters.deallocate()
    }

    /// Runs `body` on the paced pair, if there has been a model. It lives as long as this object.
    @inline(__always)
    private func withPaced<Value>(_ otherwise: Value, _ body: (PacedPair) -> Value) -> Value {
        guard let pointer = UnsafeRawPointer(bitPattern: pacedWord.load(ordering: .acquiring)) else { return otherwise }
        return Unmanaged<PacedPair>.fromOpaque(pointer)._withUnsafeGuaranteedRef(body)
    }

    public func postSend(_ request: borrowing WorkRequest) -> Bool {
        let isPosted =
            if let pointer = UnsafeRawPointer(bitPattern: pacedWord.load(ordering: .acquiring)) {
                Unmanaged<PacedPair>.fromOpaque(pointer).takeUnretainedValue().postSend(request)
            } else {
                kind.postSend(copy request)
            }
        if isPosted { count(request) }
        return isPosted
    }

    /// Some plain additions.
    @inline(__always)
    private func count(_ request: borrowing WorkRequest) {
        var bytes: UInt64 = 0
        for element in request.local { bytes &+= UInt64(element.count) }
        lego_atomic_count_u64(counters, 1)
        lego_atomic_count_u64(counters + (request.opcode == .read ? 2 : 1), bytes)
    }

    public var traffic: LinkTraffic {
        var traffic = LinkTraffic()
        traffic.requests = lego_atomic_peek_u64(counters)
        traffic.bytesOut = lego_atomic_peek_u64(counters + 1) &+ lego_atomic_peek_u64(counters + 3)
        traffic.bytesIn = lego_atomic_peek_u64(counters + 2) &+ lego_atomic_peek_u64(counters + 4)
        return traffic
    }

    public func postReceive(id: UInt64, local: UnsafeBufferPointer<ScatterElement>) -> Bool {
        switch kind {
        case .soft(let pair): pair.lend { $0.postReceive(id: id, local: local) }
        case .verbs(let pair): pair.lend { $0.postReceive(id: id, local: local) }
        }
    }

    public func disconnect() {
        switch kind {
        case .soft(let pair): pair.lend { $0.disconnect() }
        case .verbs(let pair): pair.lend { $0.disconnect() }
        }
    }

    public func awaitQuiet(until deadline: Deadline) -> Bool {
        switch kind {
        case .soft(let pair): pair.lend { $0.awaitQuiet(until: deadline) }
        case .verbs(let pair): pair.lend { $0.awaitQuiet(until: deadline) }
        }
    }

    public func beginAccess(_ remoteKey: UInt32, address: UInt64, count: Int, _ access: RemoteAccess)
        -> UnsafeMutableRawPointer?
    {
        guard !withPaced(false, { $0.isOn }),
            let place = kind.withSoft(nil, { $0.beginAccess(remoteKey, address: address, count: count, access) })
        else { return nil }
        lego_atomic_tally_u64(counters + (access == .read ? 4 : 3), UInt64(count))
        return place
    }

    public func endAccess() { kind.withSoft(()) { $0.endAccess() } }

    public var peerProcess: Int32 {
        withPaced(false, { $0.isOn }) ? 0 : kind.withSoft(0) { $0.peerProcess }
    }

    public var isConnected: Bool { kind.isConnected }

    public func follow(_ line: LinkLine?) throws(FabricError) {
        try made.withLock { made throws(FabricError) in
            if let made { return made.follow(line) }
            guard let line else { return }
            let paced = PacedPair(kind.copy(), parameters: parameters, queue: send.soft, pacer: send.pacer)
            try send.pacer.add(paced)
            send.attach(paced)
            if receive !== send { receive.attach(paced) }
            paced.follow(line)
            made = paced
            pacedWord.store(UInt(bitPattern: Unmanaged.passUnretained(paced).toOpaque()), ordering: .releasing)
        }
    }
}

extension HybridQueuePair {
    /// The part of the device that carries a pair.
    enum Kind: ~Copyable, Sendable {
        case soft(Held<SoftQueuePair>)
        case verbs(Held<VerbsQueuePair>)

        init(_ pair: SoftQueuePair) { self = .soft(Held(pair)) }
        init(_ pair: VerbsQueuePair) { self = .verbs(Held(pair)) }

        /// Another holder of the same pair.
        func copy() -> Kind {
            switch self {
            case .soft(let pair): Kind(pair.object)
            case .verbs(let pair): Kind(pair.object)
            }
        }

        var number: UInt32 {
            switch self {
            case .soft(let pair): pair.lend { $0.number }
            case .verbs(let pair): pair.lend { $0.number }
            }
        }

        var link: LinkKind {
            switch self {
            case .soft(let pair): pair.lend { $0.link }
            case .verbs(let pair): pair.lend { $0.link }
            }
        }

        @inline(__always)
        func postSend(_ request: WorkRequest) -> Bool {
            switch self {
            case .soft(let pair): pair.lend { $0.postSend(request) }
            case .verbs(let pair): pair.lend { $0.postSend(request) }
            }
        }

        @inline(__always)
        var isConnected: Bool {
            switch self {
            case .soft(let pair): pair.lend { $0.isConnected }
            case .verbs(let pair): pair.lend { $0.isConnected }
            }
        }

        /// Whether the two ends have yet to agree: nothing can be posted.
        var isConnecting: Bool {
            switch self {
            case .soft(let pair): pair.lend { $0.isConnecting }
            case .verbs(let pair): pair.lend { $0.isConnecting }
            }
        }

        /// Runs `body` on an emulated pair.
        @inline(__always)
        func withSoft<Value>(_ otherwise: Value, _ body: (SoftQueuePair) -> Value) -> Value {
            switch self {
            case .soft(let pair): pair.lend(body)
            case .verbs: otherwise
            }
        }
    }
}
