import Fabric
import Kernel
import Testing

/// The devices that the checks run on.
enum DeviceKind: String, CaseIterable, CustomTestStringConvertible, Sendable {
    case sharedMemory = "SoftDevice over shared memory"
    case tcp = "SoftDevice over TCP"

    var testDescription: String { rawValue }

    /// Runs a check that is written against the seam.
    func run(soft: (Bench<SoftDevice>) throws -> Void) throws {
        switch self {
        case .sharedMemory: try soft(softBench(.sharedMemory))
        case .tcp: try soft(softBench(.tcp))
        }
    }
}

func softBench(_ transport: SoftDeviceConfiguration.Transport, _ timeout: Duration = .seconds(2)) -> Bench<SoftDevice> {
    Bench(
        make: {
            var configuration = SoftDeviceConfiguration(transport: transport)
            configuration.receiverNotReadyTimeout = timeout
            return try SoftDevice(configuration: configuration)
        }, host: "127.0.0.1")
}
