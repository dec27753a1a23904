import Glibc
import Kernel
import Synchronization
import Testing

@testable import Fabric

/// What an adapter reports of itself ends the connections over it, as the peer's death would. To be run in a process of
/// its own, after the others: Soft-RoCE's connection manager does not recover from a message that found no way out.
@Suite(.serialized) struct AdapterEventTests {
    /// Shell commands that do something to the first adapter of LEGO_TEST_VERBS, and that undo it.
    private struct Commands {
        let act: String
        let undo: String

        init?(_ act: String, _ undo: String) {
            guard let act = getenv(act), let undo = getenv(undo) else { return nil }
            self.act = String(cString: act)
            self.undo = String(cString: undo)
        }
    }
    private static let link = Commands("LEGO_TEST_VERBS_DOWN", "LEGO_TEST_VERBS_UP")
    private static let removal = Commands("LEGO_TEST_VERBS_REMOVE", "LEGO_TEST_VERBS_ADD")

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

    private final class Outcome: Sendable { let status = Atomic<Int32>(-1) }

    /// An adapter that is pulled out. The kernel may keep it until this process has let go of it, which the end of its
    /// connections and the device's close do; a new one in its place is found by a new device.
    @Test(
        .enabled(
            if: removal != nil, "needs an adapter that may be removed: LEGO_TEST_VERBS_REMOVE and _ADD"))
    func adapterRemoved() throws {
        let commands = try #require(Self.removal)
        let act = commands.act
        let outcome = Outcome()
        var puller: KernelThread?
        try VerbsHost.bench.withLab(bytes: 4096) { lab in
            let left = lab.left
            for id in 0..<4 { #expect(left.postReceive([left.element(0, 8)], id: UInt64(id))) }
            puller = try KernelThread(name: "puller") { outcome.status.store(system(act), ordering: .releasing) }
            for id in 0..<4 { #expect(try left.expectNext(.flushed).id == UInt64(id)) }
            #expect(!left.pair.isConnected)
            #expect(left.post(.write, [left.element(0, 8)], id: 9, to: lab.right.remote()))
            #expect(try left.expectNext(.flushed).id == 9)
        }
        puller?.join()
        #expect(outcome.status.load(ordering: .acquiring) == 0)
        #expect(system(commands.undo) == 0)
        try VerbsHost.bench.withLab(bytes: 4096) { lab in
            #expect(lab.left.post(.write, [lab.left.element(0, 8)], to: lab.right.remote()))
            try lab.left.expectNext(.success)
        }
    }

    @Test(.enabled(if: link != nil, "needs an adapter whose link may be taken down: LEGO_TEST_VERBS_DOWN and _UP"))
    func portDown() throws {
        let commands = try #require(Self.link)
        try VerbsHost.bench.withLab(bytes: 4096) { lab in
            let left = lab.left
            for id in 0..<4 { #expect(left.postReceive([left.element(0, 8)], id: UInt64(id))) }
            #expect(system(commands.act) == 0)
            defer { #expect(system(commands.undo) == 0) }
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
