import Glibc

// Latency of calls and one-sided transfers between two processes of one host: Lite beside the bare device, in one run.
//
//   lego-bench-fabric            runs everything, prints one line per measurement
//   lego-bench-fabric serve ...  what it starts as the other process

@main
enum Main {
    static func main() {
        do {
            if CommandLine.arguments.dropFirst().first == "serve" {
                try BenchServer.run()
            } else if CommandLine.arguments.count == 1 {
                try BenchClient.run()
            } else {
                print("usage: lego-bench-fabric (it takes no arguments)")
                exit(2)
            }
        } catch {
            var line = "lego-bench-fabric: \(error)\n"
            line.withUTF8 { _ = write(2, $0.baseAddress, $0.count) }
            exit(1)
        }
    }
}
