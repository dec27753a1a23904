import Fabric
import Glibc
import Kernel
import LiteClient
import Synchronization
import Testing

@testable import LiteService

extension LiteClientTests {
    @Suite(.serialized) struct SilentNodes {
        /// A node is stopped while three times as many programs as threads wait for it serve; everybody else goes on.
        @Test(.enabled(if: Program.canRun)) func aStoppedNodeHoldsOnlyThoseWhoWantIt() throws {
            try withDirectory { directory in
                try withCluster(nodes: 2, transport: .tcp) { cluster in
                    let (daemon, _) = try Program.daemon(
                        "silent", in: directory,
                        ["--fabric", "tcp", "--peers", "\(cluster.members[0].node.address)"])
                    let live = try cluster.join()
                    #expect(eventually { cluster.members.allSatisfy { $0.service.memberCount == 2 } })
                    let silent = try live.node(named: "silent")
                    let waiting = try (0..<24).map { _ in try cluster.join() }
                    let regions = try waiting.map { try $0.malloc(4096, on: [silent]) }
                    let own = try live.malloc(4096)
                    try live.name(own, "own")
                    let far = try live.malloc(65536, on: [cluster.members[1].id])
                    let lock = try live.openLock("lock")
                    // What was started is timeout(1): its child is the daemon.
                    let child = try #require(Program.child(of: daemon.process))
                    #expect(Program.stop(child))

                    let ended = Atomic<Int>(0)
                    let threads = try (0..<24).map { number in
                        let lite = waiting[number]
                        let region = regions[number]
                        return try KernelThread(name: "waits") {
                            let failure = failure { () throws(LiteFailure) in
                                switch number % 3 {
                                case 0: try lite.write(region, [1, 2, 3])
                                case 1: try lite.send(silent, 5, UnsafeRawBufferPointer(start: nil, count: 0))
                                default: try lite.memset(region, at: 0, 1, count: 4096)
                                }
                            }
                            #expect(
                                failure == .nodeLost || failure == .gone, "\(number): \(String(describing: failure))")
                            ended.add(1, ordering: .releasing)
                        }
                    }
                    defer { for thread in threads { thread.join() } }
                    for round in 0..<50 {
                        try live.write(own, pattern(round, 4096))
                        #expect(try live.read(own, count: 4096) == pattern(round, 4096))
                        try live.write(far, pattern(round, 65536))
                        #expect(try live.read(far, count: 65536) == pattern(round, 65536))
                        try live.free(try live.malloc(64))
                        try live.lock(lock, until: patience)
                        try live.unlock(lock)
                        let mapped = try live.map("own")
                        try live.unmap(mapped)
                    }
                    // Nobody who wants the silent node has been answered while all of this was done.
                    #expect(ended.load(ordering: .acquiring) == 0)
                    #expect(eventually { ended.load(ordering: .acquiring) == 24 })
                    #expect(eventually { cluster.members.allSatisfy { $0.service.memberCount == 1 } })
                    Glibc.kill(child, SIGKILL)
                    unlink("\(directory)/silent")
                }
            }
        }

        /// Operations are under way while their region is unmapped, freed or revoked: each is done or refused, and none
        /// touches memory that is somebody else's by then.
        @Test(arguments: [SoftDeviceConfiguration.Transport.automatic, .tcp])
        func whatIsUnderWayWhenARegionGoes(_ transport: SoftDeviceConfiguration.Transport) throws {
            try withCluster(nodes: 2, transport: transport) { cluster in
                let owner = try cluster.join()
                let nodes = try owner.nodes()
                var options = LiteSession.Options()
                options.channels = 4
                for round in 0..<12 {
                    let user = try cluster.join(round % 2, options)
                    let region = try owner.malloc(256 << 10, on: [nodes[round / 2 % 2]])
                    try owner.name(region, "region\(round)")
                    let mapped = try user.map("region\(round)")
                    let begun = Atomic<Int>(0)
                    let threads = try (0..<3).map { thread in
                        let bytes = [UInt8](repeating: 0xa5, count: [8, 4096, 200_000][thread])
                        return try KernelThread(name: "uses") {
                            var last: LiteFailure?
                            while last == nil {
                                last = failure { () throws(LiteFailure) in try user.write(mapped, bytes) }
                                begun.add(1, ordering: .releasing)
                            }
                            #expect([.badHandle, .gone, .noRight].contains(last))
                        }
                    }
                    #expect(eventually { begun.load(ordering: .acquiring) > 30 })
                    switch round % 3 {
                    case 0: try owner.free(region)
                    case 1: try user.unmap(mapped)
                    default: try owner.revoke(region, from: getuid(), .write)
                    }
                    if round % 3 != 0 { try owner.free(region) }
                    // Whoever gets the memory next finds it clear, and keeps it so.
                    let next = try owner.malloc(256 << 10, on: [nodes[round / 2 % 2]])
                    #expect(try owner.read(next, count: 256 << 10).allSatisfy { $0 == 0 })
                    for thread in threads { thread.join() }
                    #expect(try owner.read(next, count: 256 << 10).allSatisfy { $0 == 0 })
                    try owner.free(next)
                }
                #expect(eventually { cluster.members.allSatisfy { $0.service.usedBytes == 0 } })
            }
        }
    }
}
