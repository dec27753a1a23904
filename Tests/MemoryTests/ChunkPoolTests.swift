import Glibc
import Kernel
import Testing
import Wire

@testable import MemoryService

@Suite struct ChunkPoolTests {
    private let owner = ChunkOwner(processor: NodeID(rawValue: 1), program: ProgramID(rawValue: 1))
    private let next = ChunkOwner(processor: NodeID(rawValue: 1), program: ProgramID(rawValue: 2))

    private func isZero(_ memory: MemoryFile, _ chunk: UInt32) -> Bool {
        let start = memory.base + Int(chunk) * RemoteChunk.bytes
        // Every byte equals its successor, and the first is zero.
        return start.load(as: UInt8.self) == 0 && memcmp(start, start + 1, RemoteChunk.bytes - 1) == 0
    }

    /// Whichever way memory is zeroed (kept and overwritten, given back to the host), nobody sees old bytes.
    @Test(arguments: [0, 2 * RemoteChunk.bytes, 64 * RemoteChunk.bytes]) func oldBytesAreNeverSeen(retained: Int) throws
    {
        let memory = try MemoryFile(name: "pool", bytes: 32 * RemoteChunk.bytes)
        let pool = ChunkPool(pool: memory.bytes, retainedBytes: retained, isPresent: false)
        for round in 0..<4 {
            let who = round % 2 == 0 ? owner : next
            let chunks = try #require(pool.reserve(32, for: who, isWelcome: { true }))
            #expect(chunks.count > 0)
            for chunk in chunks {
                #expect(isZero(memory, chunk))
                memset(memory.base + Int(chunk) * RemoteChunk.bytes, 0xA5, RemoteChunk.bytes)
            }
            #expect(pool.release(chunks, of: who) == .released)
        }
    }

    @Test func givesBackWhatItDoesNotRetain() throws {
        let memory = try MemoryFile(name: "pool", bytes: 32 * RemoteChunk.bytes)
        let pool = ChunkPool(pool: memory.bytes, retainedBytes: 4 * RemoteChunk.bytes, isPresent: false)
        let chunks = try #require(pool.reserve(32, for: owner, isWelcome: { true }))
        memset(memory.base, 0xA5, memory.count)
        #expect(pool.release(chunks, of: owner) == .released)
        while pool.scrub() {}
        var status = stat()
        fstat(memory.descriptor, &status)
        #expect(status.st_blocks * 512 <= 4 * RemoteChunk.bytes)
        #expect(pool.usedBytes == 0)
    }

    @Test func aFullPoolAndAnUnwelcomeCallerGetNothing() throws {
        let memory = try MemoryFile(name: "pool", bytes: 2 * RemoteChunk.bytes)
        let pool = ChunkPool(pool: memory.bytes, retainedBytes: 0, isPresent: false)
        #expect(pool.reserve(1, for: owner, isWelcome: { false }) == nil)
        #expect(pool.usedBytes == 0)
        #expect(pool.reserve(9, for: owner, isWelcome: { true })?.count == 2)
        #expect(pool.reserve(1, for: next, isWelcome: { true }) == [])
        #expect(pool.usedBytes == pool.capacityBytes)
    }

    /// Threads that reserve, check, soil and release while the scrubber runs beside them.
    @Test func manyThreadsNeverSeeOldBytesOrEachOther() throws {
        let memory = try MemoryFile(name: "pool", bytes: 64 * RemoteChunk.bytes)
        let pool = ChunkPool(pool: memory.bytes, retainedBytes: 16 * RemoteChunk.bytes, isPresent: false)
        let scrubber = try Scrubber(pool: pool)
        try scrubber.start()
        let base = UInt(bitPattern: memory.base)
        let faults = Counter()
        let threads = try (1...4).map { number in
            try KernelThread(name: "user\(number)") {
                let owner = ChunkOwner(processor: NodeID(rawValue: UInt64(number)), program: ProgramID(rawValue: 1))
                for _ in 0..<200 {
                    guard let chunks = pool.reserve(20, for: owner, isWelcome: { true }) else { return faults.add() }
                    let starts = chunks.map {
                        UnsafeMutableRawPointer(bitPattern: base + UInt($0) * UInt(RemoteChunk.bytes))!
                    }
                    for start in starts {
                        if start.load(as: UInt64.self) != 0 || start.load(fromByteOffset: 65528, as: UInt64.self) != 0 {
                            faults.add()
                        }
                        memset(start, Int32(number), RemoteChunk.bytes)
                    }
                    for start in starts where start.load(fromByteOffset: 4096, as: UInt8.self) != UInt8(number) {
                        faults.add()
                    }
                    if pool.release(chunks, of: owner) != .released { faults.add() }
                    scrubber.wake()
                }
            }
        }
        for thread in threads { thread.join() }
        scrubber.stop()
        #expect(faults.count == 0)
        #expect(pool.usedBytes == 0)
    }
}
