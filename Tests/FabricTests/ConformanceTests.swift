import Fabric
import Testing

/// Runs every check on every kind of device.
@Suite(.serialized) struct ConformanceTests {
    @Test(arguments: DeviceKind.allCases)
    func sizesOfTransfers(kind: DeviceKind) throws { try kind.run(soft: Checks.sizesOfTransfers) }

    @Test(arguments: DeviceKind.allCases)
    func scatterLists(kind: DeviceKind) throws { try kind.run(soft: Checks.scatterLists) }

    @Test(arguments: DeviceKind.allCases)
    func inlineData(kind: DeviceKind) throws { try kind.run(soft: Checks.inlineData) }

    @Test(arguments: DeviceKind.allCases)
    func manyOutstanding(kind: DeviceKind) throws { try kind.run(soft: Checks.manyOutstanding) }

    @Test(arguments: DeviceKind.allCases)
    func ordering(kind: DeviceKind) throws { try kind.run(soft: Checks.ordering) }

    @Test(arguments: DeviceKind.allCases)
    func bothDirections(kind: DeviceKind) throws { try kind.run(soft: Checks.bothDirections) }

    @Test(arguments: DeviceKind.allCases)
    func atomics(kind: DeviceKind) throws { try kind.run(soft: Checks.atomics) }

    @Test(arguments: DeviceKind.allCases)
    func refusals(kind: DeviceKind) throws { try kind.run(soft: Checks.refusals) }

    @Test(arguments: DeviceKind.allCases)
    func rights(kind: DeviceKind) throws { try kind.run(soft: Checks.rights) }

    @Test(arguments: DeviceKind.allCases)
    func tooLongMessage(kind: DeviceKind) throws { try kind.run(soft: Checks.tooLongMessage) }

    @Test(arguments: DeviceKind.allCases)
    func receiverNotReady(kind: DeviceKind) throws { try kind.run(soft: Checks.receiverNotReady) }

    @Test(arguments: DeviceKind.allCases)
    func flush(kind: DeviceKind) throws { try kind.run(soft: Checks.flush) }

    @Test(arguments: DeviceKind.allCases)
    func deliveryBeforeFlush(kind: DeviceKind) throws { try kind.run(soft: Checks.deliveryBeforeFlush) }

    @Test(arguments: DeviceKind.allCases)
    func smallCompletionQueue(kind: DeviceKind) throws { try kind.run(soft: Checks.smallCompletionQueue) }

    @Test(arguments: DeviceKind.allCases)
    func deregistration(kind: DeviceKind) throws { try kind.run(soft: Checks.deregistration) }

    @Test(arguments: DeviceKind.allCases)
    func staleKeys(kind: DeviceKind) throws { try kind.run(soft: Checks.staleKeys) }

    @Test(arguments: DeviceKind.allCases)
    func broughtMemory(kind: DeviceKind) throws { try kind.run(soft: Checks.broughtMemory) }

    @Test(arguments: DeviceKind.allCases)
    func failedConnections(kind: DeviceKind) throws { try kind.run(soft: Checks.failedConnections) }

    @Test(arguments: DeviceKind.allCases)
    func manyConnections(kind: DeviceKind) throws { try kind.run(soft: Checks.manyConnections) }

    @Test(arguments: DeviceKind.allCases)
    func manyDevices(kind: DeviceKind) throws { try kind.run(soft: Checks.manyDevices) }
}
