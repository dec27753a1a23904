import CLinux
import Glibc
import Kernel
import Synchronization

/// The device's side of a pair: what its thread watches and looks after.
protocol PairLink: EventHandler {
    var pair: SoftQueuePair { get }
    /// Begins to watch. False when the kernel refuses.
    func watch() -> Bool
    /// After a wake-up of the device's thread: sends what had to wait, or flushes.
    func attend()
    /// Waits until the pair is no longer needed by the device. Not on its thread.
    func awaitEnd(until deadline: Deadline)
    /// Waits for accesses to registered memory that are under way.
    func waitForAccesses(until deadline: Deadline)
    /// A region has been deregistered.
    func tellRegionGone(_ key: UInt32)
    /// After a wake-up of the device's thread: when to look at what is left to a poller.
    func checkPolls() -> Deadline
}

extension PairLink {
    func checkPolls() -> Deadline { .never }
}

/// The device's side of a shared-memory pair: its control socket, watched by the device's thread. Lives until both ends
/// have flushed, so that a deregistration knows whom to wait for.
final class SharedLink: PairLink, @unchecked Sendable {
    let pair: SoftQueuePair
    private let channel: SharedChannel
    private let context: SoftContext
    private let control: Int32
    private let server: OwnerService
    /// 0 until watched. The device thread's after that.
    private var token: UInt64 = 0
    private var buffer: [UInt8] = []
    /// Futex word: 1 once both ends have flushed.
    private let ended: UnsafeMutablePointer<UInt32>

    init(pair: SoftQueuePair, channel: SharedChannel) {
        self.pair = pair
        self.channel = channel
        context = pair.context
        control = channel.control
        server = OwnerService(table: pair.context.table.view)
        ended = .allocate(capacity: 1)
        ended.initialize(to: 0)
    }

    deinit { ended.deallocate() }

    func watch() -> Bool {
        do throws(KernelError) {
            token = context.loop.register(self)
            try context.loop.watch(control, token: token)
            return true
        } catch {
            return false
        }
    }

    func handle(_ events: UInt32) {
        let bytes_max = OwnerPacket.headBytes + OwnerPacket.payloadBytes_max + 1
        if buffer.isEmpty { buffer = [UInt8](repeating: 0, count: bytes_max) }
        while !pair.isPeerGone.load(ordering: .relaxed) {
            var packet = ReceivedPacket(from: control, into: &buffer)
            switch packet.outcome {
            case .packet: answer(buffer.prefix(packet.count), &packet)
            case .none: return
            case .endOfStream:
                context.loop.remove(control, token: token)
                pair.isPeerGone.store(true, ordering: .sequentiallyConsistent)
                pair.breakConnection()
                attend()
            }
        }
    }

    private func answer(_ bytes: ArraySlice<UInt8>, _ packet: inout ReceivedPacket) {
        switch OwnerPacket.kind(of: bytes) {
        case .request:
            // The peer has one request under way at a time: a full socket means that it does not read.
            if pair.isBroken || !server.serve(bytes, on: control) { pair.breakConnection() }
            return
        case .answer:
            if channel.owner.take(bytes) { channel.driveSend(pair) } else { pair.breakConnection() }
            return
        case nil: break
        }
        guard let message = ControlMessage(bytes) else { return pair.breakConnection() }
        switch message.kind {
        case .wantRegion:
            context.withRegionFile(message.key) { file in
                let kind: ControlMessage.Kind = file == nil ? .noRegion : .region
                // The peer has one question under way at a time: a full socket means that it does not read.
                if !ControlMessage(kind: kind, key: message.key).send(on: control, descriptor: file) {
                    pair.breakConnection()
                }
            }
        case .region:
            var isMapped = false
            if let file = packet.take(0) { isMapped = channel.install(message.key, file: file) }
            channel.regionArrived(message.key, isMapped: isMapped, pair)
        case .noRegion: channel.regionArrived(message.key, isMapped: false, pair)
        case .regionGone: channel.withDevice(()) { $0.forget(message.key) }
        case .bye: pair.breakConnection()
        }
    }

    func attend() {
        if !pair.isBroken {
            if pair.hasWork { pair.driveSend() }
            if channel.mayBeFull { pair.driveReceive() }
            return
        }
        if pair.finish(), pair.isPeerGone.load(ordering: .acquiring) {
            context.forget(self)
            lego_atomic_store_u32(ended, 1)
            Futex.wake(ended, count: .max)
        }
    }

    func awaitEnd(until deadline: Deadline) {
        while lego_atomic_load_u32(ended) == 0, !deadline.hasPassed { Futex.wait(ended, while: 0, until: deadline) }
    }

    func waitForAccesses(until deadline: Deadline) {
        server.waitForAccesses()
        channel.waitForAccesses { !pair.isPeerGone.load(ordering: .acquiring) && !deadline.hasPassed }
    }

    func tellRegionGone(_ key: UInt32) {
        // Best effort: the mapping goes at the latest with the connection.
        _ = ControlMessage(kind: .regionGone, key: key).send(on: control)
    }
}
