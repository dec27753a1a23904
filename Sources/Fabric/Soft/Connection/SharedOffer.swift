import Glibc
import Kernel

/// The descriptors that each end of a shared-memory connection gives the other.
struct SharedOffer: ~Copyable {
    /// The device whose they are.
    let instance: InstanceID
    let table: Descriptor
    /// Wakes the device's thread.
    let wake: Descriptor
    /// Wakes whoever sleeps on the completion queue of the receives.
    let queueEvent: Descriptor
    let queuePage: Descriptor

    /// Takes the four descriptors that came at `from...`; nil when one is missing.
    init?(_ packet: inout ReceivedPacket, from: Int, instance: InstanceID) {
        guard let table = packet.take(from), let wake = packet.take(from + 1), let queueEvent = packet.take(from + 2),
            let queuePage = packet.take(from + 3)
        else { return nil }
        self.instance = instance
        self.table = table
        self.wake = wake
        self.queueEvent = queueEvent
        self.queuePage = queuePage
    }

    /// This device's descriptors, in the same order. They stay its own.
    static func descriptors(_ context: SoftContext, receive: SoftCompletionQueue) -> [Int32] {
        [
            context.table.file.descriptor, context.loop.wakeDescriptor, receive.notificationDescriptor,
            receive.page.descriptor,
        ]
    }

    /// Maps what was offered.
    consuming func open(_ context: SoftContext) throws(FabricError) -> SharedChannel.Remote {
        let queuePage = try SharedFile.map(queuePage, bytes: 4096)
        let device = try context.peer(instance, table: table, wake: wake)
        return SharedChannel.Remote(device: device, queueEvent: queueEvent, queuePage: queuePage)
    }
}
