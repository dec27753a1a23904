import Fabric
import Kernel
import Logging
import RackConfiguration
import Synchronization
import Wire

/// What the frame hands to a daemon at its start.
public final class DaemonContext: Sendable {
    public let settings: Settings
    public let logger: Logger
    public let readiness: ReadinessReporter
    /// Why the daemon must end early; the first reason stays.
    private let failure = Mutex<DaemonError?>(nil)
    private let wake: EventDescriptor

    init(settings: Settings, logger: Logger, readiness: ReadinessReporter) throws(KernelError) {
        self.settings = settings
        self.logger = logger
        self.readiness = readiness
        self.wake = try EventDescriptor()
    }

    /// Ends the daemon with this reason. Any thread.
    public func fail(_ error: DaemonError) {
        failure.withLock { if $0 == nil { $0 = error } }
        wake.signal()
    }

    var failureReason: DaemonError? { failure.withLock { $0 } }
    var failureDescriptor: Int32 { wake.raw }
}

extension FabricAddress {
    public init(_ address: NetworkAddress) { self.init(host: address.host, port: address.port) }
}

/// The level that a checked setting names.
extension Logger.Level {
    init(setting: String) { self = Logger.Level(rawValue: setting) ?? .info }
}
