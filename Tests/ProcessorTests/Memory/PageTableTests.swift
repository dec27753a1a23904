import Testing

@testable import ProcessorService

struct PageTableTests {
    @Test func anEntryKeepsItsFieldsApart() {
        var entry = PageEntry.empty
        #expect(entry.isEmpty && !entry.isResident && !entry.isStored)
        entry.isResident = true
        entry.isDirty = true
        entry.store(chunk: 0xffff_fffe, slot: 13)
        #expect(entry.chunk == 0xffff_fffe && entry.slot == 13)
        #expect(entry.isResident && entry.isDirty && entry.isStored && !entry.isPinned && !entry.isForkShared)
        entry.isDirty = false
        entry.isForkShared = true
        #expect(entry.chunk == 0xffff_fffe && entry.slot == 13 && !entry.isDirty)
        entry.forgetStored()
        #expect(!entry.isStored && entry.chunk == 0 && entry.slot == 0 && entry.isResident && entry.isForkShared)
    }

    @Test func theTableAgreesWithADictionary() {
        var random = SystemRandomNumberGenerator()
        let table = PageTable()
        var model: [UInt64: UInt64] = [:]
        // Clusters around a few far-apart places, as heaps, libraries and stacks are.
        let places: [UInt64] = [0x400, 0x5_5555_5000, 0x7_ffff_0000, PageTable.pages_max - 600, 511, 512]
        for _ in 0..<20_000 {
            let page = places.randomElement(using: &random)! + .random(in: 0..<600, using: &random)
            var entry = PageEntry.empty
            if Bool.random(using: &random) { entry.isResident = .random(using: &random) }
            if Bool.random(using: &random) { entry.isDirty = true }
            table.set(page, entry)
            if page < PageTable.pages_max { model[page] = entry.isEmpty ? nil : entry.raw }
        }
        for (page, raw) in model { #expect(table.entry(page).raw == raw) }
        #expect(table.residentCount == model.values.count { $0 & 1 != 0 })

        var visited: [UInt64] = []
        table.forEach(0..<UInt64.max) { page, entry in
            visited.append(page)
            #expect(model[page] == entry.raw)
        }
        #expect(visited == model.keys.sorted())

        let part = (places[1] + 100)..<(places[1] + 515)
        var inPart = 0
        table.forEach(part) { page, entry in
            #expect(part.contains(page))
            inPart += 1
            entry = .empty
        }
        #expect(inPart == model.keys.count { part.contains($0) })
        #expect(table.residentCount == model.count { !part.contains($0.key) && $0.value & 1 != 0 })
    }

    @Test func pagesBeyondUserSpaceAreIgnored() {
        let table = PageTable()
        var entry = PageEntry.empty
        entry.isResident = true
        table.set(PageTable.pages_max, entry)
        table.set(UInt64.max, entry)
        #expect(table.entry(PageTable.pages_max).isEmpty && table.entry(.max).isEmpty && table.residentCount == 0)
        #expect(table.blockChunk(PageTable.pages_max) == nil)
    }

    @Test func chunkIndexesThatAreOldAreRecognised() {
        // The macro cannot capture a value that is not copyable: every answer is taken first.
        var chunks = ChunkTable()
        let first = chunks.add(number: 7, component: 2, block: 100)
        var answers = [chunks.isFor(100, first), chunks.isFor(101, first), chunks.isFor(100, first + 1)]
        #expect(answers == [true, false, false])
        let offset = chunks.offset(first, slot: 3)
        #expect(offset == 7 * 65536 + 3 * 4096)
        chunks.remove(first)
        answers = [chunks.isFor(100, first)]
        #expect(answers == [false])
        let second = chunks.add(number: 9, component: 1, block: 200)
        answers = [second == first, chunks.isFor(200, second), chunks.isFor(100, second)]
        #expect(answers == [true, true, false])
        // Beyond the first capacity.
        var indexes: Set<Int> = []
        var last = 0
        for number in 0..<3000 {
            last = chunks.add(number: UInt32(number), component: 0, block: UInt64(number))
            indexes.insert(last)
        }
        let number = chunks[last].pointee.number
        answers = [chunks.isFor(200, second)]
        #expect(indexes.count == 3000 && number == 2999 && answers == [true])
    }
}

struct PoolAllocatorTests {
    @Test func partsNeverOverlapAndComeBackWhole() {
        let pool = UnsafeMutableRawBufferPointer.allocate(byteCount: 64 * 4096, alignment: 4096)
        defer { pool.deallocate() }
        let allocator = PoolAllocator(pool: pool)
        var random = SystemRandomNumberGenerator()
        var held: [UnsafeMutableRawBufferPointer] = []
        for round in 0..<2000 {
            if Bool.random(using: &random),
                let part = allocator.allocate(bytes: .random(in: 1...20_000, using: &random))
            {
                #expect(part.count % 4096 == 0 && UInt(bitPattern: part.baseAddress) % 4096 == 0)
                #expect(part.baseAddress! >= pool.baseAddress! && part.last! == part.last!)
                for other in held {
                    let apart =
                        part.baseAddress! + part.count <= other.baseAddress!
                        || other.baseAddress! + other.count <= part.baseAddress!
                    #expect(apart, "round \(round)")
                }
                held.append(part)
            } else if !held.isEmpty {
                allocator.deallocate(held.remove(at: .random(in: 0..<held.count, using: &random)))
            }
        }
        for part in held { allocator.deallocate(part) }
        #expect(allocator.allocate(bytes: 64 * 4096)?.count == 64 * 4096)
        #expect(allocator.allocate(bytes: 1) == nil)
        #expect(allocator.allocate(bytes: 0) == nil)
    }
}
