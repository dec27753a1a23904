import Fabric
import Glibc
import Kernel
import Synchronization
import Testing

/// The devices that the checks run on: all, or where LEGO_TEST_VERBS is set only real ones.
enum DeviceKind: String, CaseIterable, CustomTestStringConvertible, Sendable {
    case sharedMemory = "SoftDevice over shared memory"
    case tcp = "SoftDevice over TCP"
    case verbs = "VerbsDevice"

    static var tested: [DeviceKind] { VerbsHost.isRequired ? [.verbs] : allCases }

    var testDescription: String { rawValue }

    /// Runs a check that is written against the seam. Called with the same generic function twice. Without an adapter
    /// the verbs run is skipped, loudly, unless LEGO_TEST_VERBS says that there is one.
    func run(_ soft: (Bench<SoftDevice>) throws -> Void, _ verbs: (Bench<VerbsDevice>) throws -> Void) throws {
        switch self {
        case .sharedMemory: try soft(softBench(.sharedMemory))
        case .tcp: try soft(softBench(.tcp))
        case .verbs: if try VerbsHost.isPresent() { try verbs(VerbsHost.bench) }
        }
    }
}

/// Whether this host can run the checks over verbs.
enum VerbsHost {
    static let skipped = Atomic<Int>(0)
    /// Set where adapters are known to exist, to the addresses that they are reached by: `ADDRESS` or, where the two
    /// sides of a connection shall have one each, `ADDRESS,ADDRESS`.
    static let configured = getenv("LEGO_TEST_VERBS").map {
        String(cString: $0).split(separator: ",").map { String($0) }
    }
    static var isRequired: Bool { configured != nil }

    /// Whether there is an adapter to test; where one was promised its absence is a failure.
    static func isPresent() throws -> Bool {
        guard let missing else { return true }
        if isRequired { throw LabError("LEGO_TEST_VERBS is set, but \(missing)") }
        print("SKIPPED on VerbsDevice (\(skipped.add(1, ordering: .relaxed).newValue) so far): \(missing)")
        return false
    }

    /// The addresses of two adapters; nil without them.
    static var pair: (String, String)? {
        guard let configured, configured.count == 2 else { return nil }
        return (configured[0], configured[1])
    }

    static var bench: Bench<VerbsDevice> {
        guard let addresses = configured, let host = addresses.last else {
            return Bench(make: { try VerbsDevice() }, host: "127.0.0.1")
        }
        return Bench(
            make: { try VerbsDevice(configuration: VerbsDeviceConfiguration(address: host)) },
            makeLeft: { try VerbsDevice(configuration: VerbsDeviceConfiguration(address: addresses[0])) }, host: host)
    }

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
