import Fabric
import Testing

/// Runs every check on every kind of device. Over verbs: `LEGO_TEST_VERBS=ADDRESS-OF-THE-ADAPTER`.
@Suite(.serialized) struct ConformanceTests {
    @Test(arguments: DeviceKind.allCases)
    func sizesOfTransfers(kind: DeviceKind) throws { try kind.run(Checks.sizesOfTransfers, Checks.sizesOfTransfers) }

    @Test(arguments: DeviceKind.allCases)
    func scatterLists(kind: DeviceKind) throws { try kind.run(Checks.scatterLists, Checks.scatterLists) }

    @Test(arguments: DeviceKind.allCases)
    func inlineData(kind: DeviceKind) throws { try kind.run(Checks.inlineData, Checks.inlineData) }

    @Test(arguments: DeviceKind.allCases)
    func manyOutstanding(kind: DeviceKind) throws { try kind.run(Checks.manyOutstanding, Checks.manyOutstanding) }

    @Test(arguments: DeviceKind.allCases)
    func ordering(kind: DeviceKind) throws { try kind.run(Checks.ordering, Checks.ordering) }

    @Test(arguments: DeviceKind.allCases)
    func bothDirections(kind: DeviceKind) throws { try kind.run(Checks.bothDirections, Checks.bothDirections) }

    @Test(arguments: DeviceKind.allCases)
    func atomics(kind: DeviceKind) throws { try kind.run(Checks.atomics, Checks.atomics) }

    @Test(arguments: DeviceKind.allCases)
    func refusals(kind: DeviceKind) throws { try kind.run(Checks.refusals, Checks.refusals) }

    @Test(arguments: DeviceKind.allCases)
    func rights(kind: DeviceKind) throws { try kind.run(Checks.rights, Checks.rights) }

    @Test(arguments: DeviceKind.allCases)
    func tooLongMessage(kind: DeviceKind) throws { try kind.run(Checks.tooLongMessage, Checks.tooLongMessage) }

    @Test(arguments: DeviceKind.allCases)
    func receiverNotReady(kind: DeviceKind) throws { try kind.run(Checks.receiverNotReady, Checks.receiverNotReady) }

    @Test(arguments: DeviceKind.allCases)
    func flush(kind: DeviceKind) throws { try kind.run(Checks.flush, Checks.flush) }

    @Test(arguments: DeviceKind.allCases)
    func deliveryBeforeFlush(kind: DeviceKind) throws {
        try kind.run(Checks.deliveryBeforeFlush, Checks.deliveryBeforeFlush)
    }

    @Test(arguments: DeviceKind.allCases)
    func smallCompletionQueue(kind: DeviceKind) throws {
        // An adapter's queue must hold what can complete; a soft device waits for room.
        try kind.run(Checks.smallCompletionQueue) { _ in }
    }

    @Test(arguments: DeviceKind.allCases)
    func deregistration(kind: DeviceKind) throws { try kind.run(Checks.deregistration, Checks.deregistration) }

    @Test(arguments: DeviceKind.allCases)
    func fencing(kind: DeviceKind) throws { try kind.run(Checks.fencing, Checks.fencing) }

    @Test(arguments: DeviceKind.allCases)
    func staleKeys(kind: DeviceKind) throws { try kind.run(Checks.staleKeys, Checks.staleKeys) }

    @Test(arguments: DeviceKind.allCases)
    func broughtMemory(kind: DeviceKind) throws { try kind.run(Checks.broughtMemory, Checks.broughtMemory) }

    @Test(arguments: DeviceKind.allCases)
    func failedConnections(kind: DeviceKind) throws { try kind.run(Checks.failedConnections, Checks.failedConnections) }

    @Test(arguments: DeviceKind.allCases)
    func manyConnections(kind: DeviceKind) throws { try kind.run(Checks.manyConnections, Checks.manyConnections) }

    @Test(arguments: DeviceKind.allCases)
    func manyDevices(kind: DeviceKind) throws { try kind.run(Checks.manyDevices, Checks.manyDevices) }
}
