import Foundation
import ManagementAPI
import Testing

/// `legoctl fabric` on a rack: what it shows, measures and changes, and what it refuses.
@Suite(.serialized)
struct LinkTests {
    private func fabric(_ rack: Rack) throws -> FabricStatus {
        let result = try rack.control(["fabric", "--json"])
        try #require(result.status == 0, "fabric: \(result.errors)")
        return try JSONDecoder().decode(FabricStatus.self, from: Data(result.output))
    }

    private func link(_ from: String, _ to: String, _ rack: Rack) throws -> FabricStatus.Link {
        let status = try fabric(rack)
        return try #require(status.links.first { Set([$0.from, $0.to]) == [from, to] }, "\(status.links)")
    }

    /// Touches 24 MiB twice with an ExCache of 8 MiB: every page leaves and comes back.
    private let program = [
        "python3", "-c", "x = bytearray(24 << 20); x[::4096] = b'1' * 6144; print(sum(x[::4096]))",
    ]

    @Test func linksAreShownMeasuredAndSlowed() throws {
        try Rack.with(["--memories", "1", "--memory-size", "256MiB"]) { rack in
            let names = try fabric(rack).devices.map(\.component)
            #expect(Set(names) == ["manager", "processor0", "memory0", "storage0"])
            func run() throws {
                let result = try rack.run(["--excache", "8MiB", "--user", "root"], program)
                #expect(result.status == 0 && result.text == "301056\n", "\(result.text) \(result.errors)")
            }
            try run()
            let before = try link("processor0", "memory0", rack)
            #expect(before.from == "processor0" && before.path == "shared-memory" && before.reason == "same host")
            #expect(before.queuePairs == 2 && before.modelForth.isEmpty && before.bytesForth > 8 << 20)

            var result = try rack.control(["fabric", "link", "set", "memory0", "processor0", "custom:50000:1000000000"])
            #expect(result.status == 0 && result.errors.isEmpty && result.text.isEmpty, "\(result.errors)")
            let slow = try link("processor0", "memory0", rack)
            #expect(slow.modelForth == "custom:50000:1000000000" && slow.modelBack == slow.modelForth)
            result = try rack.control(["fabric", "measure", "processor0", "memory0", "--json"])
            let figures = try JSONDecoder().decode([LinkFigures].self, from: Data(result.output))
            #expect(figures.count == 1 && figures[0].latency_ns >= 50_000)
            for bandwidth in figures[0].bytesPerSecond { #expect((1...1_000_000_000).contains(bandwidth)) }
            // Page fetches pay: they are requests now.
            try run()
            let after = try link("processor0", "memory0", rack)
            #expect(after.requests > slow.requests + 100)

            result = try rack.control(["fabric", "link", "set", "processor0", "memory0", "off"])
            #expect(result.status == 0)
            #expect(try link("processor0", "memory0", rack).modelForth.isEmpty)
            result = try rack.control(["fabric", "measure"])
            #expect(
                result.status == 0 && result.text.contains("processor0  memory0"), "\(result.text) \(result.errors)")
        }
    }

    @Test func refusals() throws {
        try Rack.with(["--memories", "1", "--memory-size", "256MiB"]) { rack in
            let cases: [(arguments: [String], status: Int32, words: [String])] = [
                (["link", "set", "processor0", "memory9", "hdr"], 1, ["memory9", "the rack has manager"]),
                (["link", "set", "processor0", "processor0", "hdr"], 1, ["two ends"]),
                (["link", "set", "processor0", "memory0", "fast"], 64, ["fast", "membus", "custom"]),
                (["link", "set", "processor0", "a/b", "hdr"], 64, ["a/b"]),
                (["measure", "memory0", "storage0"], 1, ["no link from memory0 to storage0"]),
                (["measure", "nobody", "memory0"], 1, ["nobody", "the rack has manager"]),
                (["measure", "memory0"], 64, ["both ends"]),
            ]
            for (arguments, status, words) in cases {
                let result = try rack.control(["fabric"] + arguments)
                #expect(Int32(result.status) == status, "\(arguments): \(result.errors)")
                #expect(result.errors.split(separator: "\n").count == 1 && result.text.isEmpty, "\(arguments)")
                for word in words { #expect(result.errors.contains(word), "\(result.errors)") }
            }
            _ = try rack.control(["component", "kill", "memory0", "--state", rack.directory + "/state"])
            let result = try rack.control(["fabric", "link", "set", "manager", "memory0", "hdr"])
            #expect(result.status == 1 && result.errors.split(separator: "\n").count == 1)
            #expect(try fabric(rack).devices.contains { $0.component == "memory0" && !$0.note.isEmpty })
        }
    }
}
