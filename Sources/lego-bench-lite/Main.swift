import BenchSupport
import CLinux
import Glibc
import Kernel

// LITE as programs see it, in one run: latency of reads, writes and calls beside the bare device's, 64-byte writes
// against the number of regions, registered bytes and programs, and what a program of high priority keeps beside eight of
// low priority.
//
//   lego-bench-lite [FIGURES] [FILE.csv]   prints one line per figure, and writes them to the file
//                                          FIGURES: transfers, tcp, calls, regions, priorities (these without one),
//                                          registered (takes 9 GiB of memory), clients (starts 1000 processes)
//   lego-bench-lite ROLE ...               what it starts as other processes
//
// Pollers and clients spin where that pays; on few processors most of what is measured is their taking turns.

@main
enum Main {
    static func main() {
        do {
            let arguments = Array(CommandLine.arguments.dropFirst())
            switch arguments.first {
            // The measuring program and the daemons have a processor each, if there are two.
            case "node":
                Affinity.restrict(toProcessor: 1)
                try NodeRole.run(arguments)
            case "echo": try EchoRole.run(arguments)
            case "idle": try IdleRole.run(arguments)
            case "writer": try WriterRole.run(arguments)
            case "bare":
                try BareServer.run(
                    bytes: Int(Bench.arenaBytes), transport: arguments.contains("tcp") ? .tcp : .automatic)
            default:
                Affinity.restrict(toProcessor: 0)
                try Benchmark(arguments).run()
            }
        } catch {
            var line = "lego-bench-lite: \(error)\n"
            line.withUTF8 { _ = write(2, $0.baseAddress, $0.count) }
            exit(1)
        }
    }
}

enum Affinity {
    /// A processor that there is not is passed over.
    static func restrict(toProcessor number: Int) {
        var mask: UInt64 = 1 << UInt64(number)
        _ = lego_thread_set_affinity(0, &mask, 1)
    }
}
