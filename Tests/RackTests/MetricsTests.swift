import Foundation
import Glibc
import Kernel
import Testing

/// What a Prometheus server would read.
@Suite(.serialized)
struct MetricsTests {
    /// The samples of one scrape by their text up to the value.
    private func scrape(_ rack: Rack) throws -> [String: Int] {
        let script = """
            import sys, urllib.request
            answer = urllib.request.urlopen('http://\(rack.address)/metrics', timeout=10)
            assert answer.headers['content-type'].startswith('text/plain; version=0.0.4'), answer.headers
            sys.stdout.write(answer.read().decode())
            """
        let result = try Command("/usr/bin/python3", ["-c", script]).run()
        try #require(result.status == 0, "\(result.errors)")
        var samples: [String: Int] = [:]
        var typed: Set<Substring> = []
        for line in result.text.split(separator: "\n") {
            if line.hasPrefix("# TYPE ") { typed.insert(line.split(separator: " ")[2]) }
            if line.hasPrefix("#") { continue }
            let parts = line.split(separator: " ")
            try #require(parts.count == 2, "\(line)")
            #expect(typed.contains(parts[0].prefix { $0 != "{" }), "\(line) comes before its type")
            let value: Int = try #require(Int(parts[1]))
            samples[String(parts[0])] = value
        }
        return samples
    }

    private func component(_ metric: String, _ name: String, _ kind: String, _ more: String = "") -> String {
        "lego_component_\(metric){name=\"\(name)\",kind=\"\(kind)\"\(more)}"
    }

    @Test func aScrapeShowsTheRack() throws {
        try Rack.with(["--memories", "2", "--memory-size", "256MiB"]) { rack in
            let before = try scrape(rack)
            #expect(before[component("capacity_bytes", "memory1", "memory")] == 256 << 20)
            #expect(before[component("health", "memory1", "memory", ",health=\"healthy\"")] == 1)
            #expect(before["lego_programs_running"] == 0)
            #expect(before["lego_faults_total"] == 0)
            #expect(before["lego_component_losses_total{kind=\"memory\"}"] == 0)

            let script = "l = list(range(2_000_000)); print('ready', flush=True); input()"
            let running = try rack.command(["run", "--excache", "16MiB", "--", "/usr/bin/python3", "-c", script]).start(
                keepingInputOpen: true)
            try #require(running.pump(until: .after(.seconds(60))) { output, _ in output.starts(with: "ready".utf8) })
            // Counters come with heartbeats.
            let isSeen = try rack.eventually {
                let now = try scrape(rack)
                return now["lego_programs_running"] == 1 && now["lego_remote_bytes", default: 0] > 20 << 20
                    && now["lego_evicted_pages_total", default: 0] > 1000
                    && now["lego_remote_written_pages_total", default: 0] > 1000
                    && now["lego_zero_filled_pages_total", default: 0] > 1000
                    && now["lego_resident_bytes", default: 0] > 1 << 20
                    && now[component("used_bytes", "processor0", "processor"), default: 0] > 1 << 20
                    && ["memory0", "memory1"].contains {
                        now[component("used_bytes", $0, "memory"), default: 0] > 20 << 20
                    }
            }
            let seen = try scrape(rack)
            #expect(isSeen, "\(seen)")
            running.closeStandardInput()
            _ = running.finish(until: .after(.seconds(30)))
            let id = try #require(try rack.programs().first?.id)
            let last = try rack.statistics(id)
            #expect(try rack.control(["component", "kill", "memory1"]).status == 0)
            let isLost = try rack.eventually {
                try scrape(rack)[component("health", "memory1", "memory", ",health=\"lost\"")] == 1
            }
            #expect(isLost)
            let after = try scrape(rack)
            #expect(after["lego_programs_running"] == 0)
            #expect(after["lego_programs_started_total"] == 1)
            // Its input ended: python raised EOFError and exited with 1.
            #expect(after["lego_programs_ended_total{state=\"exited\"}"] == 1)
            #expect(after["lego_component_losses_total{kind=\"memory\"}"] == 1)
            #expect(after["lego_faults_total"] == Int(last.faults))
            #expect(after["lego_remote_written_pages_total"] == Int(last.remoteWritePages))
            #expect(after["lego_remote_bytes"] == 0)
        }
    }
}
