import Glibc
import Kernel
import LiteClient
import Testing
import Wire

/// Memory components that also serve LITE: a host's programs need no daemon of their own for it.
@Suite(.serialized)
struct EmbeddedLiteTests {
    /// A memory component with LITE; it is killed with the test.
    private func start(_ name: String, _ manager: FakeManager, _ directory: String) throws -> ChildProcess {
        let file = "\(directory)/\(name).toml"
        try "[lite]\nsocket = \"\(directory)/\(name).sock\"\narena = \"4MiB\"\n"
            .write(toFile: file, atomically: true, encoding: .utf8)
        return try ChildProcess(
            ChildProcess.products + "/lego-memory",
            ["--config", file, "--name", name, "--manager", "\(manager.node.address)", "--size", "1MiB"])
    }

    @Test func memoryComponentsServeTogetherWhomTheManagerNames() throws {
        let manager = try FakeManager()
        defer { manager.node.close() }
        let scratch = try Scratch()
        defer { withExtendedLifetime(scratch) {} }
        let directory = scratch.path
        let names = ["memory0", "memory1"]
        let components = try names.map { try start($0, manager, directory) }
        #expect(manager.waits { $0.registrations.count == 2 })
        manager.update { state in
            state.members = state.registrations.map {
                RackMember(
                    kind: .memory, health: .healthy, name: $0.name, node: NodeID(rawValue: UInt64($0.name.count)),
                    liteAddress: $0.liteAddress)
            }
            state.epoch += 1
        }
        let first = try LiteSession(path: "\(directory)/memory0.sock")
        let second = try LiteSession(path: "\(directory)/memory1.sock")
        let deadline = Deadline.after(.seconds(20))
        while try first.nodes().count < 2 || second.nodes().count < 2, !deadline.hasPassed { usleep(1000) }
        let other = try first.node(named: "memory1")
        #expect(other == second.node)
        // Memory of the one, made by a program at the other, and mapped by its own.
        let region = try first.malloc(65536, on: [other])
        try first.name(region, "shared")
        let bytes = [UInt8]((0..<200).map { UInt8($0) })
        try bytes.withUnsafeBytes { try first.write(region, at: 60000, from: $0) }
        let mapped = try second.map("shared")
        var seen = [UInt8](repeating: 0, count: 200)
        try seen.withUnsafeMutableBytes { try second.read(mapped, at: 60000, into: $0) }
        #expect(seen == bytes)
        // The arena is no part of what the component offers to the rack.
        #expect(manager.waits { $0.registrations.allSatisfy { $0.capacityBytes == 1 << 20 } })
        first.leave()
        second.leave()
        for component in components {
            component.send(SIGTERM)
            #expect(component.finish().end == .exited(0))
        }
        for name in names {
            #expect(access("\(directory)/\(name).sock", F_OK) != 0)
            unlink("\(directory)/\(name).toml")
        }
        #expect(rmdir(directory) == 0)
    }
}
