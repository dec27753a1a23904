import BenchSupport
import Fabric
import Glibc

// Latency of calls and one-sided transfers between two processes of one host: Lite beside the bare device, in one run.
//
//   lego-bench-fabric            runs everything, prints one line per measurement
//   lego-bench-fabric device [shared-memory | tcp]
//                                the bare device alone, as CSV, for comparison with others
//   lego-bench-fabric models     how near link models come to what they say
//   lego-bench-fabric ROLE       what it starts as other processes

@main
enum Main {
    static func main() {
        do {
            switch CommandLine.arguments.dropFirst().first {
            case "nodes": try NodesRole.run()
            case "bare": try BareServer.run(bytes: Bench.poolBytes, transport: transport)
            case "echo": try MessageEnd.serve(echoes: true, transport: transport)
            case "sink": try MessageEnd.serve(echoes: false, transport: transport)
            case "device": try DeviceBench.run(only: named)
            case "models": try ModelBench.run()
            case nil: try BenchClient.run()
            default:
                print("usage: lego-bench-fabric [device [shared-memory | tcp] | models]")
                exit(2)
            }
        } catch {
            var line = "lego-bench-fabric: \(error)\n"
            line.withUTF8 { _ = write(2, $0.baseAddress, $0.count) }
            exit(1)
        }
    }

    /// The transport that a role is told.
    private static var transport: SoftDeviceConfiguration.Transport { named ?? .automatic }

    private static var named: SoftDeviceConfiguration.Transport? {
        CommandLine.arguments.dropFirst(2).first.flatMap { SoftDeviceConfiguration.Transport(rawValue: $0) }
    }
}
