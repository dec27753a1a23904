import CLinux
import Glibc
import Kernel
import Synchronization

/// The device's side of a shared-memory pair: its control socket, watched by the device's thread. Lives until both ends have
/// flushed, so that a deregistration knows whom to wait for.
final class SharedLink: EventHandler, @unchecked Sendable {
    let pair: SoftQueuePair
    private let context: SoftContext
    private let control: Int32
    /// 0 until watched. The device thread's after that.
    private var token: UInt64 = 0
    /// Futex word: 1 once both ends have flushed.
    private let ended: UnsafeMutablePointer<UInt32>

    init(pair: SoftQueuePair, context: SoftContext) {
        self.pair = pair
        self.context = context
        control = pair.control
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
        var bytes = [UInt8](repeating: 0, count: 2 * ControlMessage.encodedSize)
        while !pair.isPeerGone.load(ordering: .relaxed) {
            var packet = ReceivedPacket(from: control, into: &bytes)
            switch packet.outcome {
            case .packet: answer(bytes.prefix(packet.count), &packet)
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
            if let file = packet.take(0), let device = pair.channel.device {
                do throws(FabricError) {
                    try device.install(message.key, file: file)
                    isMapped = true
                } catch {}
            }
            pair.regionArrived(message.key, isMapped: isMapped)
        case .noRegion: pair.regionArrived(message.key, isMapped: false)
        case .regionGone: pair.channel.device?.forget(message.key)
        case .bye: pair.breakConnection()
        }
    }

    /// After a wake-up of the device's thread: sends what had to wait, or flushes.
    func attend() {
        if !pair.isBroken {
            if pair.hasWork { pair.driveSend() }
            return
        }
        if pair.finish(), pair.isPeerGone.load(ordering: .acquiring) {
            context.forget(self)
            lego_atomic_store_u32(ended, 1)
            Futex.wake(ended, count: .max)
        }
    }

    /// Waits until both ends have flushed. Not on the device's thread.
    func awaitEnd(until deadline: Deadline) {
        while lego_atomic_load_u32(ended) == 0, !deadline.hasPassed { Futex.wait(ended, while: 0, until: deadline) }
    }

    /// Waits for accesses to registered memory that are under way.
    func waitForAccesses(until deadline: Deadline) {
        pair.channel.waitForAccesses { !pair.isPeerGone.load(ordering: .acquiring) && !deadline.hasPassed }
    }

    func tellRegionGone(_ key: UInt32) {
        // Best effort: the mapping goes at the latest with the connection.
        _ = ControlMessage(kind: .regionGone, key: key).send(on: control)
    }
}
