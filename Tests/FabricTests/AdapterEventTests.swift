import Fabric
import Glibc
import Kernel
import Testing

/// What an adapter reports of itself ends the connections over it, as the peer's death would. To be run in a process of
/// its own, after the others: Soft-RoCE's connection manager does not recover from a message that found no way out.
@Suite(.serialized) struct AdapterEventTests {
    /// Shell commands that take the link of the first adapter of LEGO_TEST_VERBS down, and that bring it back.
    private static let commands: (down: String, up: String)? = {
        guard let down = getenv("LEGO_TEST_VERBS_DOWN"), let up = getenv("LEGO_TEST_VERBS_UP") else { return nil }
        return (String(cString: down), String(cString: up))
    }()

    @Test(.enabled(if: commands != nil, "needs an adapter whose link may be taken down: LEGO_TEST_VERBS_DOWN and _UP"))
    func portDown() throws {
        let commands = try #require(Self.commands)
        try VerbsHost.bench.withLab(bytes: 4096) { lab in
            let left = lab.left
            for id in 0..<4 { #expect(left.postReceive([left.element(0, 8)], id: UInt64(id))) }
            #expect(system(commands.down) == 0)
            defer { #expect(system(commands.up) == 0) }
            for id in 0..<4 {
                let completion = try left.expectNext(.flushed)
                #expect(completion.id == UInt64(id) && completion.kind == .receive)
            }
            #expect(!left.pair.isConnected)
            #expect(left.post(.write, [left.element(0, 8)], id: 9, to: lab.right.remote()))
            #expect(try left.expectNext(.flushed).id == 9)
        }
    }
}
