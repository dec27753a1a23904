import Glibc
import Kernel
import Testing

@testable import Fabric

/// What an adapter reports of itself ends the connections over it, as the peer's death would. To be run in a process of
/// its own, after the others: Soft-RoCE's connection manager does not recover from a message that found no way out.
@Suite(.serialized) struct AdapterEventTests {
    /// Shell commands that take the link of the first adapter of LEGO_TEST_VERBS down, and that bring it back.
    private static let commands: (down: String, up: String)? = {
        guard let down = getenv("LEGO_TEST_VERBS_DOWN"), let up = getenv("LEGO_TEST_VERBS_UP") else { return nil }
        return (String(cString: down), String(cString: up))
    }()

    /// One queue pair in error ends its connection, at both ends, and no other over the same adapter. Soft-RoCE reports
    /// no such error, so the report is the test's own; all that follows is the device's and the adapter's.
    @Test(.enabled(if: VerbsHost.isRequired, "needs an adapter, see VerbsHost"))
    func queuePairFatal() throws {
        try VerbsHost.bench.withLab(bytes: 4096) { other in
            try VerbsHost.bench.withLab(bytes: 4096) { lab in
                for id in 0..<4 {
                    #expect(lab.left.postReceive([lab.left.element(0, 8)], id: UInt64(id)))
                    #expect(lab.right.postReceive([lab.right.element(0, 8)], id: UInt64(id)))
                }
                AdapterEvents.pass(
                    .pair(number: lab.left.pair.number), of: lab.left.device.manager.context.adapter)
                for side in [lab.left, lab.right] {
                    for id in 0..<4 {
                        let completion = try side.expectNext(.flushed)
                        #expect(completion.id == UInt64(id))
                    }
                    #expect(!side.pair.isConnected)
                }
                #expect(lab.left.post(.write, [lab.left.element(0, 8)], id: 9, to: lab.right.remote()))
                let refused = try lab.left.expectNext(.flushed)
                #expect(refused.id == 9)
            }
            #expect(other.left.post(.write, [other.left.element(0, 8)], to: other.right.remote()))
            try other.left.expectNext(.success)
        }
    }

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
