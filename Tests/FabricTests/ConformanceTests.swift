import Fabric
import Testing

/// Runs every check on every kind of device. Over verbs: `LEGO_TEST_VERBS`, see `VerbsHost`.
@Suite(.serialized) struct ConformanceTests {
    @Test(arguments: DeviceKind.tested)
    func sizesOfTransfers(kind: DeviceKind) throws { try kind.run(Checks.sizesOfTransfers, Checks.sizesOfTransfers) }

    @Test(arguments: DeviceKind.tested)
    func scatterLists(kind: DeviceKind) throws { try kind.run(Checks.scatterLists, Checks.scatterLists) }

    @Test(arguments: DeviceKind.tested)
    func inlineData(kind: DeviceKind) throws { try kind.run(Checks.inlineData, Checks.inlineData) }

    @Test(arguments: DeviceKind.tested)
    func manyOutstanding(kind: DeviceKind) throws { try kind.run(Checks.manyOutstanding, Checks.manyOutstanding) }

    @Test(arguments: DeviceKind.tested)
    func thousandOutstanding(kind: DeviceKind) throws {
        try kind.run(Checks.thousandOutstanding, Checks.thousandOutstanding)
    }

    @Test(arguments: DeviceKind.tested)
    func ordering(kind: DeviceKind) throws { try kind.run(Checks.ordering, Checks.ordering) }

    @Test(arguments: DeviceKind.tested)
    func numberedMessages(kind: DeviceKind) throws {
        try kind.run(Checks.numberedMessages, Checks.numberedMessages)
    }

    @Test(arguments: DeviceKind.tested)
    func bothDirections(kind: DeviceKind) throws { try kind.run(Checks.bothDirections, Checks.bothDirections) }

    @Test(arguments: DeviceKind.tested)
    func atomics(kind: DeviceKind) throws { try kind.run(Checks.atomics, Checks.atomics) }

    @Test(arguments: DeviceKind.tested)
    func refusals(kind: DeviceKind) throws { try kind.run(Checks.refusals, Checks.refusals) }

    @Test(arguments: DeviceKind.tested)
    func rights(kind: DeviceKind) throws { try kind.run(Checks.rights, Checks.rights) }

    @Test(arguments: DeviceKind.tested)
    func tooLongMessage(kind: DeviceKind) throws { try kind.run(Checks.tooLongMessage, Checks.tooLongMessage) }

    @Test(arguments: DeviceKind.tested)
    func receiverNotReady(kind: DeviceKind) throws { try kind.run(Checks.receiverNotReady, Checks.receiverNotReady) }

    @Test(arguments: DeviceKind.tested)
    func flush(kind: DeviceKind) throws { try kind.run(Checks.flush, Checks.flush) }

    @Test(arguments: DeviceKind.tested)
    func deliveryBeforeFlush(kind: DeviceKind) throws {
        try kind.run(Checks.deliveryBeforeFlush, Checks.deliveryBeforeFlush)
    }

    @Test(arguments: DeviceKind.tested)
    func smallCompletionQueue(kind: DeviceKind) throws {
        // An adapter's queue must hold what can complete; a soft device waits for room.
        try kind.run(Checks.smallCompletionQueue) { _ in }
    }

    @Test(arguments: DeviceKind.tested)
    func deregistration(kind: DeviceKind) throws { try kind.run(Checks.deregistration, Checks.deregistration) }

    @Test(arguments: DeviceKind.tested)
    func fencing(kind: DeviceKind) throws { try kind.run(Checks.fencing, Checks.fencing) }

    @Test(arguments: DeviceKind.tested)
    func staleKeys(kind: DeviceKind) throws { try kind.run(Checks.staleKeys, Checks.staleKeys) }

    @Test(arguments: DeviceKind.tested)
    func broughtMemory(kind: DeviceKind) throws { try kind.run(Checks.broughtMemory, Checks.broughtMemory) }

    @Test(arguments: DeviceKind.tested)
    func directAccess(kind: DeviceKind) throws { try kind.run(Checks.directAccess, Checks.directAccess) }

    @Test(arguments: DeviceKind.tested)
    func failedConnections(kind: DeviceKind) throws { try kind.run(Checks.failedConnections, Checks.failedConnections) }

    @Test(arguments: DeviceKind.tested)
    func manyConnections(kind: DeviceKind) throws { try kind.run(Checks.manyConnections, Checks.manyConnections) }

    @Test(arguments: DeviceKind.tested)
    func manyDevices(kind: DeviceKind) throws { try kind.run(Checks.manyDevices, Checks.manyDevices) }
}
