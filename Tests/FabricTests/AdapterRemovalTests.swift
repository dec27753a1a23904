import Glibc
import Testing

@testable import Fabric

/// The removal of an adapter ends the connections over it at both ends, and its devices can be closed. In a process of its
/// own: an adapter whose driver cannot take it from its users, such as Soft-RoCE, is gone only when the last of them has
/// ended (`ib_uverbs_remove_one`), and a process keeps the adapters that it has opened.
@Suite(.serialized) struct AdapterRemovalTests {
    /// A shell command that removes the first adapter of LEGO_TEST_VERBS.
    private static let command = getenv("LEGO_TEST_VERBS_REMOVE").map { String(cString: $0) }

    @Test(.enabled(if: command != nil, "needs an adapter that may be removed: LEGO_TEST_VERBS_REMOVE"))
    func removal() throws {
        let command = try #require(Self.command)
        try VerbsHost.bench.withLab(bytes: 4096) { lab in
            for side in [lab.left, lab.right] {
                for id in 0..<4 { #expect(side.postReceive([side.element(0, 8)], id: UInt64(id))) }
            }
            // It ends when this process has.
            #expect(system("\(command) &") == 0)
            for side in [lab.left, lab.right] {
                for id in 0..<4 {
                    let completion = try side.expectNext(.flushed, .receive)
                    #expect(completion.id == UInt64(id))
                }
                #expect(!side.pair.isConnected)
                #expect(side.post(.write, [side.element(0, 8)], id: 9, to: lab.right.remote()))
                #expect(try side.expectNext(.flushed).id == 9)
            }
        }
    }
}
