import Testing
import Wire

@testable import MemoryService

@Suite struct ChunkAllocatorTests {
    private let ada = ChunkOwner(processor: NodeID(rawValue: 1), program: ProgramID(rawValue: 7))
    private let bob = ChunkOwner(processor: NodeID(rawValue: 2), program: ProgramID(rawValue: 7))

    @Test func reservesLowNumbersFirstAndNoMoreThanThereAre() {
        var allocator = ChunkAllocator(chunks: 70)
        #expect(allocator.reserve(3, for: ada) == [0, 1, 2])
        #expect(allocator.reserve(100, for: bob) == Array(3..<70))
        #expect(allocator.reserve(1, for: ada) == [])
        #expect(allocator.ownedCount == 70)
    }

    @Test func releasedChunksAreNotHandedOutBeforeTheyAreZeroed() {
        var allocator = ChunkAllocator(chunks: 4)
        _ = allocator.reserve(4, for: ada)
        #expect(allocator.release([1, 2], of: ada) == .released)
        #expect(allocator.reserve(1, for: bob) == [])
        let run = allocator.takeDirty(atMost: 16)
        #expect(run == 1..<3)
        #expect(allocator.reserve(1, for: bob) == [], "a chunk that is being zeroed was handed out")
        allocator.putBack(1..<3, warm: true)
        #expect(allocator.reserve(4, for: bob) == [1, 2])
    }

    @Test func warmChunksGoFirst() {
        var allocator = ChunkAllocator(chunks: 8)
        _ = allocator.reserve(6, for: ada)
        #expect(allocator.release([5], of: ada) == .released)
        #expect(allocator.takeDirty(atMost: 1) == 5..<6)
        allocator.putBack(5..<6, warm: true)
        #expect(allocator.reserve(2, for: ada) == [5, 6])
        #expect(allocator.warmCount == 0)
    }

    @Test func refusedReleasesChangeNothing() {
        var allocator = ChunkAllocator(chunks: 8)
        _ = allocator.reserve(4, for: ada)
        _ = allocator.reserve(1, for: bob)
        #expect(allocator.release([0, 8], of: ada) == .outOfRange)
        #expect(allocator.release([0, .max], of: ada) == .outOfRange)
        #expect(allocator.release([0, 1, 4], of: ada) == .notOwned, "chunk 4 is the other processor's")
        #expect(allocator.release([0, 5], of: ada) == .notOwned, "chunk 5 is free")
        #expect(allocator.release([2, 3, 2], of: ada) == .notOwned, "chunk 2 is named twice")
        #expect(
            allocator.release([0], of: ChunkOwner(processor: ada.processor, program: ProgramID(rawValue: 8)))
                == .notOwned)
        #expect(allocator.ownedCount == 5)
        #expect(allocator.takeDirty(atMost: 8) == nil)
        #expect(allocator.release([0, 1, 2, 3], of: ada) == .released)
        #expect(allocator.release([0], of: ada) == .notOwned)
    }

    @Test func releaseAllTakesExactlyTheMatchingOwners() {
        var allocator = ChunkAllocator(chunks: 16)
        let other = ChunkOwner(processor: ada.processor, program: ProgramID(rawValue: 9))
        _ = allocator.reserve(5, for: ada)
        _ = allocator.reserve(5, for: bob)
        _ = allocator.reserve(5, for: other)
        #expect(allocator.releaseAll { $0.processor == self.ada.processor } == 10)
        #expect(allocator.ownedCount == 5)
        #expect(allocator.release([5, 6, 7, 8, 9], of: bob) == .released)
        #expect(allocator.releaseAll { _ in true } == 0)
    }

    /// Against a model: no chunk is ever owned twice, handed out dirty, or forgotten.
    @Test(arguments: [1, 2, 3]) func agreesWithAModel(seed: UInt64) {
        var random = SplitMix(state: seed)
        let chunks = 200
        var allocator = ChunkAllocator(chunks: chunks)
        var owner: [ChunkOwner?] = Array(repeating: nil, count: chunks)
        var dirty = Set<Int>()
        for _ in 0..<5_000 {
            let who = random.next() % 2 == 0 ? ada : bob
            switch random.next() % 4 {
            case 0:
                for chunk in allocator.reserve(Int(random.next() % 20), for: who) {
                    #expect(owner[Int(chunk)] == nil && !dirty.contains(Int(chunk)))
                    owner[Int(chunk)] = who
                }
            case 1:
                let mine = owner.indices.filter { owner[$0] == who }
                if mine.isEmpty { continue }
                let leaving = Set((0..<5).map { _ in mine[Int(random.next() % UInt64(mine.count))] })
                #expect(allocator.release(leaving.map(UInt32.init), of: who) == .released)
                for chunk in leaving { owner[chunk] = nil }
                dirty.formUnion(leaving)
            case 2:
                guard let run = allocator.takeDirty(atMost: Int(random.next() % 16) + 1) else {
                    #expect(dirty.isEmpty)
                    continue
                }
                #expect(dirty.isSuperset(of: run))
                dirty.subtract(run)
                allocator.putBack(run, warm: random.next() % 2 == 0)
            default:
                if random.next() % 50 != 0 { continue }
                let leaving = owner.indices.filter { owner[$0] == who }
                #expect(allocator.releaseAll { $0 == who } == leaving.count)
                for chunk in leaving { owner[chunk] = nil }
                dirty.formUnion(leaving)
            }
            #expect(allocator.ownedCount == owner.count { $0 != nil })
            #expect(allocator.dirtyCount == dirty.count)
        }
    }
}

/// A small generator with a seed, so that a failure can be had again.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var word = state
        word = (word ^ (word >> 30)) &* 0xBF58_476D_1CE4_E5B9
        word = (word ^ (word >> 27)) &* 0x94D0_49BB_1331_11EB
        return word ^ (word >> 31)
    }
}
