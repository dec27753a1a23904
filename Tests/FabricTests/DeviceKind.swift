import Fabric
import Glibc
import Kernel
import Synchronization
import Testing

/// The devices that the checks run on.
enum DeviceKind: String, CaseIterable, CustomTestStringConvertible, Sendable {
    case sharedMemory = "SoftDevice over shared memory"
    case tcp = "SoftDevice over TCP"
    case verbs = "VerbsDevice"

    var testDescription: String { rawValue }

    /// Runs a check that is written against the seam. Called with the same generic function twice. Without an adapter
    /// the verbs run is skipped, loudly, unless LEGO_TEST_VERBS says that there is one.
    func run(_ soft: (Bench<SoftDevice>) throws -> Void, _ verbs: (Bench<VerbsDevice>) throws -> Void) throws {
        switch self {
        case .sharedMemory: try soft(softBench(.sharedMemory))
        case .tcp: try soft(softBench(.tcp))
        case .verbs:
            if let reason = VerbsHost.missing {
                if VerbsHost.isRequired { throw LabError("LEGO_TEST_VERBS is set, but \(reason)") }
                let count = VerbsHost.skipped.add(1, ordering: .relaxed).newValue
                print("SKIPPED on VerbsDevice (\(count) so far): \(reason)")
                return
            }
            try verbs(Bench(make: { try VerbsDevice() }, host: VerbsHost.address))
        }
    }
}

/// Whether this host can run the checks over verbs.
enum VerbsHost {
    static let skipped = Atomic<Int>(0)
    /// Set where an adapter is known to exist, to the address that it is reached by.
    static let configured = getenv("LEGO_TEST_VERBS").map { String(cString: $0) }
    static var isRequired: Bool { configured != nil }
    static var address: String { configured ?? "127.0.0.1" }

    /// Why there is no device; nil when there is one.
    static let missing: String? = {
        do throws(FabricError) {
            try VerbsDevice().close()
            return nil
        } catch {
            return error.description
        }
    }()
}

func softBench(_ transport: SoftDeviceConfiguration.Transport, _ timeout: Duration = .seconds(2)) -> Bench<SoftDevice> {
    Bench(
        make: {
            var configuration = SoftDeviceConfiguration(transport: transport)
            configuration.receiverNotReadyTimeout = timeout
            return try SoftDevice(configuration: configuration)
        }, host: "127.0.0.1")
}
