import CLite
import Fabric
import Glibc
import Kernel
import Testing

@testable import LiteClient
@testable import LiteService

extension LiteClientTests {
    @Suite(.serialized) struct Buffers {
        /// Writes from and reads into parts of a buffer, and looks at the bytes by way of ordinary memory.
        @Test(arguments: [SoftDeviceConfiguration.Transport.automatic, .tcp])
        func bytesGoStraight(_ transport: SoftDeviceConfiguration.Transport) throws {
            try withCluster(nodes: 2, transport: transport) { cluster in
                let lite = try cluster.join()
                let buffer = try lite.allocateBuffer(4 << 20)
                #expect(buffer.allSatisfy { $0 == 0 })
                let nodes = try lite.nodes()
                for target in [[nodes[0]], [nodes[1]], [nodes[1], nodes[0]]] {
                    let region = try lite.malloc(4 << 20, on: target)
                    for (seed, count) in [1, 7, 8, 64, 4095, 4097, 65536, 131073, 3 << 20].enumerated() {
                        let part = UnsafeMutableRawBufferPointer(
                            rebasing: buffer[(seed * 61)...][..<(seed * 61 + count)])
                        let offset = UInt64(seed * 129)
                        part.copyBytes(from: pattern(seed, count))
                        try lite.write(region, at: offset, from: UnsafeRawBufferPointer(part))
                        #expect(try lite.read(region, at: offset, count: count) == pattern(seed, count))
                        part.initializeMemory(as: UInt8.self, repeating: 0)
                        try lite.read(region, at: offset, into: part)
                        #expect(part.elementsEqual(pattern(seed, count)))
                        if count > Int(LITE_ASYNC_MAX) { continue }
                        try lite.write(region, at: offset, pattern(seed + 1, count))
                        let operation = try lite.beginRead(region, at: offset, into: part)
                        try lite.wait(operation)
                        #expect(part.elementsEqual(pattern(seed + 1, count)))
                    }
                    try lite.free(region)
                }
                try lite.freeBuffer(buffer)
            }
        }

        @Test func aRangeBeyondABufferIsOrdinaryMemory() throws {
            try withCluster { cluster in
                let lite = try cluster.join()
                let region = try lite.malloc(16384)
                let buffer = try lite.allocateBuffer(4096)
                let start = try #require(buffer.baseAddress)
                #expect(lite.buffers.place(start, 4096) != nil)
                #expect(lite.buffers.place(start, 4097) == nil)
                #expect(lite.buffers.place(start + 4095, 1) != nil)
                #expect(lite.buffers.place(start + 4096, 1) == nil)
                #expect(lite.buffers.place(start - 1, 1) == nil)
                buffer.initializeMemory(as: UInt8.self, repeating: 3)
                try lite.write(region, from: UnsafeRawBufferPointer(buffer))
                #expect(try lite.read(region, count: 4096) == [UInt8](repeating: 3, count: 4096))
                try lite.freeBuffer(buffer)
                #expect(failure { () throws(LiteFailure) in try lite.freeBuffer(buffer) } == .invalid)
                #expect(lite.buffers.place(start, 1) == nil)
            }
        }

        @Test func limitsAreKept() throws {
            try withCluster(nodes: 1, transport: .automatic) {
                $0.bufferBytes_max = 1 << 20
            } _: { cluster in
                let lite = try cluster.join()
                #expect(failure { () throws(LiteFailure) in _ = try lite.allocateBuffer(0) } == .invalid)
                #expect(failure { () throws(LiteFailure) in _ = try lite.allocateBuffer(2 << 20) } == .limit)
                #expect(failure { () throws(LiteFailure) in _ = try lite.allocateBuffer(.max) } == .limit)
                var buffers = try (0..<Int(LITE_BUFFERS)).map { _ in try lite.allocateBuffer(4096) }
                #expect(failure { () throws(LiteFailure) in _ = try lite.allocateBuffer(4096) } == .limit)
                try lite.freeBuffer(buffers.removeLast())
                #expect(
                    failure { () throws(LiteFailure) in _ = try lite.allocateBuffer((1 << 20) - 63 * 4096 + 1) }
                        == .limit)
                buffers.append(try lite.allocateBuffer((1 << 20) - 63 * 4096))
                for buffer in buffers { try lite.freeBuffer(buffer) }
                // Another program's limit is its own, and so are its numbers.
                let other = try cluster.join()
                _ = try other.allocateBuffer(1 << 20)
            }
        }

        /// Places that the library would not name.
        @Test func onlyBytesOfABufferAreReached() throws {
            try withCluster { cluster in
                let lite = try cluster.join()
                let region = try lite.malloc(1 << 20)
                let buffer = try lite.allocateBuffer(8192)
                let start = try #require(buffer.baseAddress)
                let place = try #require(lite.buffers.place(start, 1))
                func status(_ place: UInt64, _ count: UInt64) -> Int32 {
                    lite.run(LITE_OP_READ, bytes: 0) { submission, _ in
                        submission.handle = region.handle
                        submission.count = count
                        submission.data = place
                    }
                }
                #expect(status(place, 8192) == 0)
                #expect(status(place, 8193) == LiteFailure.invalid.status)
                #expect(status(place + 8191, 1) == 0)
                #expect(status(place + 8192, 1) == LiteFailure.invalid.status)
                #expect(status(place | (1 << UInt64(LITE_BUFFER_SHIFT) - 1), 4096) == LiteFailure.invalid.status)
                for number in [2, 64, 65, 65535] as [UInt64] {
                    #expect(status(number << UInt64(LITE_BUFFER_SHIFT), 64) == LiteFailure.invalid.status)
                }
                try lite.freeBuffer(buffer)
                #expect(status(place, 64) == LiteFailure.invalid.status)
            }
        }
    }
}
