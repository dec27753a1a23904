import Fabric
import Glibc
import Kernel

/// One end of a connection over which messages go, by polling. One thread uses it.
public final class MessageEnd {
    /// Receives that are posted, each for a message of `bytes_max`; all into the same memory, as nobody looks at it, which
    /// is also how the programs do it that this is compared with.
    static let slots = 64
    public static let bytes_max = 64 << 10

    private let region: SoftRegion
    private let queue: SoftCompletionQueue
    private let pair: SoftQueuePair
    private let completions = UnsafeMutableBufferPointer<WorkCompletion>.allocate(capacity: 32)
    private let element = UnsafeMutablePointer<ScatterElement>.allocate(capacity: 1)
    @exclusivity(unchecked) private var outstanding = 0
    @exclusivity(unchecked) private var sinceSignal = 0
    /// A message in as many is signalled.
    private static let signalEvery = 16

    private init(_ region: SoftRegion, _ queue: SoftCompletionQueue, _ pair: SoftQueuePair) {
        self.region = region
        self.queue = queue
        self.pair = pair
    }

    deinit {
        completions.deallocate()
        element.deallocate()
    }

    private static func memory(_ device: SoftDevice) throws -> (SoftRegion, SoftCompletionQueue) {
        (
            try device.allocate(bytes: 2 * bytes_max, access: []),
            try device.makeCompletionQueue(capacity: 1024)
        )
    }

    private static func post(_ pair: SoftQueuePair, _ region: SoftRegion) throws(FabricError) {
        for slot in 0..<slots where !receive(pair, region, slot) { throw .invalid("too few receives") }
    }

    private static func receive(_ pair: SoftQueuePair, _ region: SoftRegion, _ slot: Int) -> Bool {
        var place = ScatterElement(
            address: region.base, count: bytes_max, localKey: region.localKey)
        return withUnsafePointer(to: &place) {
            pair.postReceive(id: UInt64(slot), local: UnsafeBufferPointer(start: $0, count: 1))
        }
    }

    /// Takes a connection and answers each message with one of the same length, or only receives. Says its address.
    public static func serve(echoes: Bool, transport: SoftDeviceConfiguration.Transport) throws {
        let device = try SoftDevice(configuration: SoftDeviceConfiguration(transport: transport))
        let (region, queue) = try memory(device)
        let address = try device.listen(on: FabricAddress(host: "127.0.0.1", port: 0))
        Role.say("\(address)")
        guard let request = try device.nextRequest(until: .after(.seconds(30))) else { return }
        let pair = try request.accept(
            send: queue, receive: queue, parameters: QueuePairParameters(), privateData: [],
            prepare: { (pair) throws(FabricError) in try post(pair, region) })
        let end = MessageEnd(region, queue, pair)
        while let bytes = end.next() { if echoes { end.send(bytes) } }
        device.close()
    }

    public init(_ device: SoftDevice, _ peer: FabricAddress) throws {
        let (region, queue) = try Self.memory(device)
        (pair, _) = try device.connect(
            to: peer, send: queue, receive: queue, parameters: QueuePairParameters(), privateData: [],
            until: .after(.seconds(20)),
            prepare: { (pair) throws(FabricError) in try Self.post(pair, region) })
        self.region = region
        self.queue = queue
    }

    /// Posts a message, waiting for room.
    public func send(_ bytes: Int) {
        element.initialize(
            to: ScatterElement(
                address: region.base + Self.bytes_max, count: bytes, localKey: region.localKey))
        var work = WorkRequest(.send, local: UnsafeBufferPointer(start: element, count: 1))
        work.isInline = bytes <= 220
        work.isSignaled = sinceSignal == Self.signalEvery - 1
        while outstanding >= 192, pair.isConnected { _ = poll() }
        while !pair.postSend(work), pair.isConnected { _ = poll() }
        sinceSignal = work.isSignaled ? 0 : sinceSignal + 1
        outstanding += 1
    }

    /// Messages that have come and not been answered for yet.
    @exclusivity(unchecked) private var arrived: [Int] = []

    /// The length of the next message; nil when the connection has ended.
    public func next() -> Int? {
        while true {
            if let bytes = arrived.popLast() { return bytes }
            if !poll() { return nil }
        }
    }

    /// Waits until all that was sent has been taken over, as far as signals tell.
    public func settle() { while outstanding >= Self.signalEvery, poll() {} }

    /// False once the connection has ended.
    private func poll() -> Bool {
        let count = queue.poll(into: completions)
        for index in 0..<count {
            let completion = completions[index]
            if completion.status != .success { return false }
            if completion.kind == .send {
                outstanding -= Self.signalEvery
            } else {
                if !Self.receive(pair, region, Int(completion.id)) { return false }
                arrived.append(Int(completion.count))
            }
        }
        return true
    }

    public func close() { pair.disconnect() }
}
