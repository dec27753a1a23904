import Fabric
import Glibc
import Kernel
import LiteClient
import Testing

@testable import LiteService

extension LiteClientTests {
    @Suite(.serialized) struct Regions {
        @Test func bytesComeBackAtEverySize() throws {
            try withCluster { cluster in
                let lite = try cluster.join()
                let region = try lite.malloc(4 << 20)
                #expect(try lite.read(region, count: 4096) == [UInt8](repeating: 0, count: 4096))
                for (seed, count) in [1, 7, 8, 64, 4095, 4096, 4097, 65536, 131073, 3 << 20].enumerated() {
                    let offset = UInt64(seed * 129)
                    try lite.write(region, at: offset, pattern(seed, count))
                    #expect(try lite.read(region, at: offset, count: count) == pattern(seed, count))
                }
            }
        }

        @Test func whatAPieceHoldsOnEveryNode() throws {
            for transport in [SoftDeviceConfiguration.Transport.automatic, .tcp] {
                try withCluster(nodes: 3, transport: transport) { cluster in
                    let lite = try cluster.join()
                    let nodes = try lite.nodes()
                    #expect(Set(nodes) == Set(cluster.members.map(\.id)))
                    #expect(nodes.first == lite.node)
                    let region = try lite.malloc(3 * 40960 + 100, on: [nodes[1], nodes[0], nodes[2]])
                    let bytes = pattern(5, Int(region.count))
                    try lite.write(region, bytes)
                    #expect(try lite.read(region, count: bytes.count) == bytes)
                    // Across the seams.
                    let seam = try lite.read(region, at: 40900, count: 8192)
                    #expect(seam == Array(bytes[40900..<40900 + 8192]))
                    for member in cluster.members { #expect(member.service.usedBytes > 0) }
                    try lite.free(region)
                    for member in cluster.members { #expect(eventually { member.service.usedBytes == 0 }) }
                }
            }
        }

        @Test func aNameIsMappedAnywhere() throws {
            try withCluster(nodes: 2) { cluster in
                let first = try cluster.join(0)
                let second = try cluster.join(1)
                let region = try first.malloc(8192)
                try first.name(region, "table")
                try first.write(region, at: 100, [1, 2, 3])
                let mapped = try second.map("table")
                #expect(mapped.count == 8192)
                #expect(try second.read(mapped, at: 100, count: 3) == [1, 2, 3])
                try second.write(mapped, at: 101, [9])
                #expect(try first.read(region, at: 100, count: 3) == [1, 9, 3])
                let other = try second.malloc(64)
                #expect(failure { () throws(LiteFailure) in try second.name(other, "table") } == .exists)
                // It outlives the program that made it.
                first.leave()
                #expect(eventually { cluster.members[0].service.sessionCount == 0 })
                #expect(try second.read(mapped, at: 101, count: 1) == [9])
                try second.unmap(mapped)
                #expect(failure { () throws(LiteFailure) in _ = try second.read(mapped, count: 1) } == .badHandle)
                let again = try second.map("table", .all)
                try second.free(again)
                #expect(failure { () throws(LiteFailure) in _ = try second.map("table") } == .noSuchName)
                #expect(eventually { cluster.members[0].service.usedBytes == 0 })
            }
        }

        @Test func badRequestsAreRefusedAndTakeNothing() throws {
            try withCluster(nodes: 2) { cluster in
                let lite = try cluster.join()
                let other = try cluster.join()
                #expect(failure { () throws(LiteFailure) in _ = try lite.malloc(0) } == .invalid)
                #expect(failure { () throws(LiteFailure) in _ = try lite.malloc(1 << 40) } == .noSpace)
                #expect(failure { () throws(LiteFailure) in _ = try lite.malloc(.max) } == .noSpace)
                #expect(failure { () throws(LiteFailure) in _ = try lite.malloc(64, on: [12345]) } == .nodeLost)
                #expect(failure { () throws(LiteFailure) in _ = try lite.malloc(64, on: []) } == .invalid)
                // Room on one node but not on the other: nothing stays taken.
                let nodes = try lite.nodes()
                let big = try lite.malloc(TestCluster.arenaBytes - 8192, on: [nodes[1]])
                #expect(failure { () throws(LiteFailure) in _ = try lite.malloc(1 << 20, on: nodes) } == .noSpace)
                #expect(eventually { cluster.members[0].service.usedBytes == 0 })
                try lite.free(big)
                #expect(failure { () throws(LiteFailure) in try lite.free(big) } == .badHandle)
                #expect(failure { () throws(LiteFailure) in _ = try lite.map("nobody") } == .noSuchName)
                #expect(failure { () throws(LiteFailure) in _ = try lite.map("") } == .invalid)
                let long = String(repeating: "x", count: 64)
                #expect(failure { () throws(LiteFailure) in _ = try lite.map(long) } == .invalid)
                let region = try lite.malloc(100)
                #expect(failure { () throws(LiteFailure) in _ = try other.read(region, count: 1) } == .badHandle)
                #expect(failure { () throws(LiteFailure) in try lite.write(region, at: 100, [1]) } == .outOfRange)
                #expect(failure { () throws(LiteFailure) in try lite.write(region, at: .max, [1]) } == .outOfRange)
                #expect(failure { () throws(LiteFailure) in try lite.write(region, []) } == .invalid)
                // A long write that ends beyond the region changes nothing.
                let wide = try lite.malloc(300_000)
                let bytes = pattern(1, 300_001)
                #expect(failure { () throws(LiteFailure) in try lite.write(wide, bytes) } == .outOfRange)
                #expect(try lite.read(wide, count: 100) == [UInt8](repeating: 0, count: 100))
                try lite.free(region)
                try lite.free(wide)
                #expect(eventually { cluster.members.allSatisfy { $0.service.usedBytes == 0 } })
                #expect(cluster.members.allSatisfy { $0.service.regionCount == 0 })
            }
        }

        @Test func rightsAreGrantedAndRevoked() throws {
            try withCluster(nodes: 2) { cluster in
                let owner = try cluster.join(0)
                let reader = try cluster.join(1)
                let region = try owner.malloc(4096)
                try owner.name(region, "shared")
                let me = getuid()
                try owner.grant(region, to: me, [.read])
                #expect(
                    failure { () throws(LiteFailure) in _ = try reader.map("shared", [.read, .write]) } == .noRight)
                let mapped = try reader.map("shared", [.read])
                _ = try reader.read(mapped, count: 8)
                #expect(failure { () throws(LiteFailure) in try reader.write(mapped, [1]) } == .noRight)
                #expect(failure { () throws(LiteFailure) in try reader.free(mapped) } == .noRight)
                #expect(failure { () throws(LiteFailure) in try reader.grant(mapped, to: me, .all) } == .noRight)
                try owner.revoke(region, from: me, [.read])
                #expect(failure { () throws(LiteFailure) in _ = try reader.read(mapped, count: 8) } == .noRight)
                try owner.grant(region, to: nil, [.read])
                let again = try reader.map("shared", [.read])
                _ = try reader.read(again, count: 8)
            }
        }

        @Test func aFreedRegionEndsForEverybody() throws {
            try withCluster(nodes: 2) { cluster in
                let owner = try cluster.join(0)
                let user = try cluster.join(1)
                let region = try owner.malloc(1 << 20)
                try owner.name(region, "short")
                let mapped = try user.map("short")
                let isOver = Flag()
                // A writer in another thread never sees anything but success and the end.
                let writer = try KernelThread(name: "writer") {
                    let bytes = pattern(3, 300_000)
                    while !isOver.isSet {
                        do throws(LiteFailure) { try user.write(mapped, bytes) } catch {
                            #expect(error == .gone)
                            return
                        }
                    }
                }
                try owner.free(region)
                #expect(failure { () throws(LiteFailure) in try user.write(mapped, [1]) } == .gone)
                isOver.set()
                writer.join()
                #expect(eventually { cluster.members[0].service.usedBytes == 0 })
                // The memory is clean for the next.
                let next = try owner.malloc(1 << 20)
                #expect(try owner.read(next, count: 1 << 20).allSatisfy { $0 == 0 })
                try user.unmap(mapped)
            }
        }

        @Test func asynchronousOperationsEndOnce() throws {
            try withCluster(nodes: 2) { cluster in
                let lite = try cluster.join()
                let nodes = try lite.nodes()
                let region = try lite.malloc(1 << 20, on: [nodes[1]])
                var sources = (0..<8).map { pattern($0, 50_000) }
                var operations: [LiteOperation] = []
                for index in 0..<8 {
                    operations.append(
                        try sources[index].withUnsafeBytes {
                            try lite.beginWrite(region, at: UInt64(index * 60_000), from: $0)
                        })
                    // The buffer was copied.
                    sources[index][0] ^= 0xff
                }
                for operation in operations { try lite.wait(operation) }
                #expect(failure { () throws(LiteFailure) in try lite.wait(operations[0]) } == .invalid)
                #expect(throws: LiteFailure.invalid) { try lite.isDone(operations[1]) }
                let target = UnsafeMutableRawBufferPointer.allocate(byteCount: 50_000, alignment: 8)
                defer { target.deallocate() }
                let read = try lite.beginRead(region, at: 60_000, into: target)
                #expect(eventually { (try? lite.isDone(read)) == true })
                try lite.wait(read)
                #expect(Array(target) == pattern(1, 50_000))
                // More than there is room for is refused, and the rest goes on.
                var under: [LiteOperation] = []
                var refusal: LiteFailure?
                while refusal == nil {
                    refusal = failure { () throws(LiteFailure) in
                        under.append(try lite.beginRead(region, at: 0, into: target))
                    }
                }
                #expect(refusal == .busy)
                for operation in under { try lite.wait(operation) }
                #expect(try lite.read(region, count: 1) == [0])
            }
        }
    }
}
