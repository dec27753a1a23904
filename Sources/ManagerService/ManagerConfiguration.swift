import Fabric
import Lite

/// How a manager runs its rack.
public struct ManagerConfiguration: Sendable {
    /// Where the HTTP API listens; port 0 takes any free one. Only processes of this host are served, wherever it
    /// listens.
    public var apiListen = FabricAddress(host: "127.0.0.1", port: 0)
    /// Holds `manager.sqlite` and its journal, readable by root alone. Made if absent.
    public var stateDirectory: String
    /// A component that is silent for longer is lost.
    public var lease: Duration = .milliseconds(1500)
    /// How long a restarted manager waits for the components that its predecessor knew before it counts them as lost.
    public var recoveryGrace: Duration = .seconds(3)
    /// How long a processor may take to start a program.
    public var startDeadline: Duration = .seconds(15)
    /// Longest request that the node's calls carry (`LiteConfiguration.messageBytes_max`), in bytes: what a program's
    /// arguments and environment must fit in.
    public var messageBytes_max = 64 << 10
    /// Results that are kept of programs that have ended; the oldest go first.
    public var results_max = 10_000

    public init(stateDirectory: String) { self.stateDirectory = stateDirectory }
}
