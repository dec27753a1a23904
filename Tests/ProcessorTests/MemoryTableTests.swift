import Testing

@testable import ProcessorService

/// The tables of the memory engine against plain models of them.
@Suite struct MemoryTableTests {
    @Test func aPageTableFindsWhatWasEntered() {
        var table = PageTable()
        #expect(table.find(5) == nil)
        let pages: [UInt64] = [0, 5, 511, 512, 1 << 18, 1 << 27, Page.count_max - 1]
        for page in pages { table.entry(page).pointee = PageEntry(bits: PageEntry.resident | page << 32) }
        for page in pages { #expect(table.find(page)?.pointee.bits == PageEntry.resident | page << 32) }
        var seen: [UInt64] = []
        table.forEach(in: 1..<Page.count_max) { page, _ in seen.append(page) }
        #expect(seen == Array(pages.dropFirst()))
        for (page, next) in zip(pages, pages.dropFirst()) {
            #expect(table.first(in: page..<Page.count_max) == page)
            #expect(table.first(in: page + 1..<Page.count_max) == next)
            #expect(table.first(in: page + 1..<next) == nil)
        }
    }

    @Test func removalTakesExactlyTheRange() {
        var table = PageTable()
        for page in UInt64(400)..<2200 { table.entry(page).pointee.set(PageEntry.resident) }
        var removed = 0
        table.removeAll(in: 500..<2100) { _, _ in removed += 1 }
        #expect(removed == 1600)
        for page in UInt64(400)..<2200 {
            #expect(table.find(page)?.pointee.isResident ?? false == (page < 500 || page >= 2100))
        }
    }

    @Test func anEntryKeepsItsPlaceAndItsFlags() {
        var entry = PageEntry()
        #expect(entry.isUntouched)
        entry.set(PageEntry.resident | PageEntry.dirty)
        entry.store(chunk: .max >> 1, slot: 15)
        #expect(entry.isResident && entry.isDirty && entry.isStored && !entry.isRemote)
        #expect(entry.chunk == .max >> 1 && entry.slot == 15)
        entry.clear(PageEntry.resident)
        #expect(entry.isRemote)
        entry.forgetStored()
        #expect(entry.bits == PageEntry.dirty)
    }

    @Test func pageRangesNeitherWrapNorLeaveTheUserHalf() {
        #expect(Page.range(4096, 1) == 1..<2)
        #expect(Page.range(0, 8192) == 0..<2)
        #expect(Page.range(.max - 100, 4096).isEmpty)
        #expect(Page.range(1 << 50, 4096).isEmpty)
        #expect(Page.range(0, 0).isEmpty)
    }

    @Test func regionsAreCutAndMergedLikeAListOfPages() {
        let file = MappedFile.forTests()
        var table = RegionTable()
        var model: [UInt64: UInt64?] = [:]  // page -> file offset, nil: zeros
        var random = SystemRandomNumberGenerator()
        for _ in 0..<2000 {
            let start = UInt64.random(in: 0..<200, using: &random)
            let pages = start..<start + UInt64.random(in: 0..<40, using: &random)
            switch Int.random(in: 0..<3, using: &random) {
            case 0:
                table.insert(Region(pages: pages))
                for page in pages { model[page] = .some(nil) }
            case 1:
                table.insert(Region(pages: pages, file: file, fileOffset: start * 4096))
                for page in pages { model[page] = page * 4096 }
            default:
                table.remove(pages)
                for page in pages { model[page] = nil }
            }
            for page in UInt64(0)..<240 {
                let region = table.index(of: page).map { table.regions[$0] }
                let offset = region?.file.map { _ in region!.fileOffset + (page - region!.pages.lowerBound) * 4096 }
                #expect((region != nil) == (model[page] != nil))
                #expect(offset == model[page] ?? nil)
            }
        }
        // Everything that continues was merged.
        for (left, right) in zip(table.regions, table.regions.dropFirst()) { #expect(!left.continues(in: right)) }
    }

    @Test func theQueueIsFirstInFirstOutAndForgetsWhatHasGone() {
        var table = PageTable()
        var queue = EvictionQueue()
        for page in UInt64(0)..<1024 {
            if page % 4 == 0 { table.entry(page).pointee.set(PageEntry.resident) }
            queue.push(page, stamp: page / 64, table: &table)
        }
        table.entry(5000).pointee.set(PageEntry.resident)
        // Full: what is not resident is thrown out instead of growing.
        queue.push(5000, stamp: 16, table: &table)
        #expect(queue.count == 257)
        #expect(queue.age(now: 16) == 16)
        var popped: [UInt64] = []
        while let page = queue.pop() { popped.append(page) }
        #expect(popped == Array(stride(from: UInt64(0), to: 1024, by: 4)) + [5000])
        #expect(table.entry(4).pointee.bits == PageEntry.resident)
    }

    @Test func aQueueHasOnlyItsOwnPages() {
        var table = PageTable()
        var probation = EvictionQueue()
        let proven = EvictionQueue(of: PageEntry.proven)
        table.entry(1).pointee.set(PageEntry.resident)
        table.entry(2).pointee.set(PageEntry.resident | PageEntry.proven)
        table.entry(3).pointee.set(PageEntry.proven)
        table.entry(4).pointee.set(PageEntry.resident | PageEntry.retained)
        #expect((1...4).map { probation.belongs(table.entry($0).pointee) } == [true, false, false, false])
        #expect((1...4).map { proven.belongs(table.entry($0).pointee) } == [false, true, false, false])
        // A full queue throws out what has gone over to the other one.
        for _ in 0..<1024 { probation.push(2, stamp: 0, table: &table) }
        probation.push(1, stamp: 0, table: &table)
        #expect(probation.count == 1)
    }

    @Test func anEntryKeepsItsDepartureBesideItsPlace() {
        var entry = PageEntry()
        #expect(entry.departure == 0)
        entry.departure = 0xbeef
        entry.set(PageEntry.retained)
        entry.store(chunk: 0x7fff_fffe, slot: 15)
        #expect((entry.departure, entry.chunk, entry.slot) == (0xbeef, 0x7fff_fffe, 15))
        entry.departure = 1
        #expect((entry.departure, entry.chunk, entry.slot) == (1, 0x7fff_fffe, 15))
        entry.forgetStored()
        #expect(entry.departure == 1 && entry.isRetained && !entry.isStored)
    }

    @Test func fetchingPaysWhenWhatWasLeftOutIsUsed() {
        var ghosts = GhostSampler()
        var judgements = [ghosts.pays]
        let isYoung = ghosts.isYoung
        for page in UInt64(1000)..<1016 { ghosts.sample(page) }
        judgements.append(ghosts.pays)
        for page in UInt64(1000)..<1010 { ghosts.fault(page) }
        judgements.append(ghosts.pays)
        // What is not used, or too late, counts against it.
        for page in UInt64(2000)..<2050 { ghosts.sample(page) }
        judgements.append(ghosts.pays)
        for _ in 0..<5000 { ghosts.fault(1) }
        for page in UInt64(2000)..<2050 { ghosts.fault(page) }
        judgements.append(ghosts.pays)
        #expect(judgements == [false, false, true, false, false])
        let isStillYoung = ghosts.isYoung
        #expect(isYoung && !isStillYoung)
    }

    @Test func aTallyKeepsTheThreadsThatFaultOften() {
        var tally = FaultTally()
        var full = 0
        for index in 0..<FaultTally.window {
            let thread: Int32 = index % 16 == 15 ? 9 : index % 2 == 0 ? 3 : 4
            if tally.note(thread, slot: 0) { full += 1 }
        }
        let areFew = tally.keepFrequent()
        #expect(full == 1 && areFew && tally.used == 2)
        tally.clear()
        // Sixteen threads in turn are too many to hold.
        for index in 0..<FaultTally.window { _ = tally.note(Int32(index % 16), slot: 0) }
        let areStillFew = tally.keepFrequent()
        #expect(!areStillFew)
    }

    @Test func takingTurnsPaysForThreadsThatComputeLittle() {
        #expect(Colocation.pays(threads: 2, compute_ns: 1_000, isHeld: false))
        #expect(!Colocation.pays(threads: 2, compute_ns: 100_000, isHeld: false))
        #expect(!Colocation.pays(threads: 8, compute_ns: 1_000, isHeld: false))
        // What is held stays so a little longer than it would begin.
        let between: Int64 = 30_000
        #expect(!Colocation.pays(threads: 2, compute_ns: between, isHeld: false))
        #expect(Colocation.pays(threads: 2, compute_ns: between, isHeld: true))
    }

    @Test(arguments: [false, true])
    func aTriggerGoesOnWhereTheScanStopped(isDown: Bool) throws {
        var trail = PointerTrail()
        var cursor = PointerTrail.Cursor(window: 500, 3, isDown: isDown)
        #expect(cursor.page == (isDown ? 502 : 500))
        var words = 0
        while cursor.hasWord {
            cursor.nextWord()
            words += 1
        }
        #expect(words == 512)
        cursor.nextPage()
        #expect(cursor.page == 501 && cursor.pages == 2 && cursor.hasWord)
        cursor.nextWord()
        trail.resume(cursor, at: 77)
        let (other, first, second) = (trail.fault(78), trail.fault(77), trail.fault(77))
        #expect(other == nil && second == nil)
        let found = try #require(first)
        #expect((found.page, found.word, found.pages, found.isDown) == (501, isDown ? 510 : 1, 2, isDown))
    }

    /// Walks that set one trigger after the other, beside triggers that never fire.
    @Test func aTriggerIsNotLostToOthers() {
        var trail = PointerTrail()
        var random = SystemRandomNumberGenerator()
        for page in UInt64(1)...16 { trail.resume(PointerTrail.Cursor(window: page, 1, isDown: false), at: page << 32) }
        var triggers = (UInt64(0)..<4).map { 1 << 20 + $0 }
        for (walk, page) in triggers.enumerated() {
            trail.resume(PointerTrail.Cursor(window: UInt64(walk), 1, isDown: false), at: page)
        }
        for step in 0..<10_000 {
            let walk = step & 3
            let cursor = trail.fault(triggers[walk])
            #expect(cursor?.page == UInt64(walk), "step \(step)")
            triggers[walk] = UInt64.random(in: 1 << 8..<1 << 19, using: &random) << 2 | UInt64(walk)
            if let cursor { trail.resume(cursor, at: triggers[walk]) }
        }
    }

    @Test func pagesComeWritableWhereTheyAreWrittenAgain() {
        var habit = WriteHabit()
        func writable(_ page: UInt64, _ habit: inout WriteHabit) -> Int {
            (0..<160).reduce(0) { count, _ in count + (habit.assumesWrite(page) ? 1 : 0) }
        }
        let atFirst = writable(1000, &habit)
        for _ in 0..<100 { habit.note(1000, isWritten: true) }
        let written = writable(1023, &habit)
        let elsewhere = writable(5000, &habit)
        for index in 0..<400 { habit.note(1000, isWritten: index % 4 == 0) }
        let oftenWritten = writable(1000, &habit)
        for index in 0..<400 { habit.note(1000, isWritten: index % 20 == 0) }
        let seldomWritten = writable(1000, &habit)
        // One in sixteen shows whether it still holds, or one in 64 where it is the rule.
        #expect((atFirst, elsewhere, oftenWritten, seldomWritten) == (0, 0, 150, 0))
        #expect(written == 157 || written == 158)
    }

    @Test(arguments: [7, -7, 64, 2])
    func aStrideDoublesItsWindow(stride: Int) {
        var strides = StrideDetector()
        var page = 100_000
        var counts: [Int] = []
        for _ in 0..<7 {
            let run = strides.fault(UInt64(page), thread: 1)
            counts.append(run.count)
            if run.count > 0 { #expect(run.stride == stride) }
            page += stride * (run.count + 1)
        }
        #expect(counts == [0, 0, 1, 3, 7, 15, 15])
    }

    /// The blocks of a matrix: short walks, each of which begins elsewhere.
    @Test func aStrideThatIsKnownIsFollowedFromTheSecondFaultOn() {
        var strides = StrideDetector()
        var counts: [[Int]] = []
        for block in 0..<3 {
            var page = 1_000_000 * (block + 1)
            counts.append([])
            for _ in 0..<3 {
                let run = strides.fault(UInt64(page), thread: 1)
                counts[block].append(run.count)
                page -= 7 * (run.count + 1)
            }
        }
        #expect(counts == [[0, 0, 1], [0, 7, 15], [0, 7, 15]])
    }

    /// Rows of a bit more than seven pages, taken four at a time, the last of the four first.
    @Test(arguments: [1, -1])
    func groupsThatGoBackwardsAreFoundAhead(direction: Int) {
        var strides = StrideDetector()
        var here: Set<Int> = []
        var (faults, brought) = (0, 0)
        for group in 0..<100 {
            for row in [3, 2, 1, 0] {
                let page = 1_000_000 + direction * ((4 * group + row) * 28_800 / 4096)
                if !here.insert(page).inserted { continue }
                faults += 1
                let run = strides.fault(UInt64(page), thread: 1)
                for step in -run.before...run.count where here.insert(page + step * run.stride).inserted {
                    brought += 1
                }
            }
        }
        #expect(faults < 70, "\(faults)")
        #expect(brought < 480, "\(brought)")
    }

    /// While nearly all that it would bring is used, a prefetcher leaves fewer pages to be faulted on.
    @Test func aPrecisePrefetcherSamplesLess() {
        func left(used share: Int) -> Int {
            var ghosts = GhostSampler()
            var left = 0
            for page in UInt64(1)...40_000 where ghosts.samples(page) {
                if page > 20_000 { left += 1 }
                if Int(page % 10) < share { ghosts.fault(page) }
            }
            #expect(ghosts.pays == (share >= 4))
            return left
        }
        let (precise, other) = (left(used: 10), left(used: 6))
        #expect(precise > 200 && precise < 450 && other > 1000 && other < 1500, "\(precise), \(other)")
    }

    /// Two walks of one thread that alternate, and one of another thread between them.
    @Test func stridesThatAlternateAreFound() {
        var strides = StrideDetector()
        var pages = [10_000, 50_000, 90_000]
        var found = [0, 0, 0]
        for _ in 0..<10 {
            for (index, (stride, thread)) in [(5, Int32(1)), (-9, 1), (30, 2)].enumerated() {
                let run = strides.fault(UInt64(pages[index]), thread: thread)
                if run.count > 0 { #expect(run.stride == stride) }
                found[index] += run.count
                pages[index] += stride * (run.count + 1)
            }
        }
        #expect(found.allSatisfy { $0 > 20 }, "\(found)")
    }

    @Test func sequentialAndFarFaultsAreNoStride() {
        var strides = StrideDetector()
        for index in 0..<100 {
            let near = strides.fault(UInt64(1000 + index), thread: 1)
            let far = strides.fault(UInt64(1_000_000 + index * 65), thread: 2)
            #expect(near.count == 0 && far.count == 0)
        }
        let edge = (0..<4).map { strides.fault(UInt64(6 - 2 * $0), thread: 3).count }
        #expect(edge == [0, 0, 1, 0])
    }

    @Test func theQueueGrowsWhenAllIsLive() {
        var table = PageTable()
        var queue = EvictionQueue()
        for page in UInt64(0)..<5000 {
            table.entry(page).pointee.set(PageEntry.resident)
            queue.push(page, stamp: 0, table: &table)
        }
        for page in UInt64(0)..<5000 { #expect(queue.pop() == page) }
        #expect(queue.pop() == nil)
    }

    @Test(arguments: [false, true])
    func aStreamDoublesItsWindow(isDown: Bool) {
        var streams = StreamDetector()
        var page: UInt64 = 10_000
        var windows: [Int] = []
        for _ in 0..<8 {
            let prediction = streams.predict(page)
            windows.append(prediction.window)
            if prediction.window == 1 {
                streams.restart(page)
                page = isDown ? page - 1 : page + 1
            } else {
                #expect(prediction.isDown == isDown)
                page = isDown ? page - UInt64(prediction.window) : page + UInt64(prediction.window)
                streams.expect(page, prediction)
            }
        }
        #expect(windows == [1, 2, 4, 8, 16, 32, 64, 64])
    }

    @Test func randomFaultsDoNotEndAStream() {
        var streams = StreamDetector()
        var random = SystemRandomNumberGenerator()
        _ = streams.predict(100)
        streams.restart(100)
        var prediction = streams.predict(101)
        #expect(prediction.window == 2)
        streams.expect(103, prediction)
        for _ in 0..<500 {
            let page = UInt64.random(in: 1 << 20..<1 << 30, using: &random)
            _ = streams.predict(page)
            streams.restart(page)
        }
        let isExpected = streams.expects(103, isDown: false)
        #expect(isExpected)
        prediction = streams.predict(103)
        #expect(prediction.window == 4)
    }

    @Test func slotsAreCountedAndChunksReused() {
        var chunks = ChunkTable()
        let first = chunks.add(memory: 1, number: 7)
        chunks.retain(first, 3)
        chunks.retain(first, 3)
        chunks.retain(first, 9)
        let used = chunks[first].pointee.used
        #expect(used == 2)
        let emptied = [3, 9, 3].map { chunks.release(first, $0) }
        #expect(emptied == [false, false, true])
        chunks.remove(first)
        let reused = chunks.add(memory: 0, number: 8)
        #expect(reused == first)
        for number in 0..<1000 { _ = chunks.add(memory: 0, number: UInt32(number)) }
        let number = chunks[first].pointee.number
        #expect(number == 8)
    }

    @Test func thePoolIsHandedOutOnceAndMergedAgain() {
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 16 << 12, alignment: 4096)
        defer { memory.deallocate() }
        let pool = PoolAllocator(pool: memory)
        let parts = (0..<4).compactMap { _ in pool.allocate(bytes: 4 << 12) }
        #expect(parts.count == 4)
        #expect(pool.allocate(bytes: 1) == nil)
        #expect(pool.allocate(bytes: 0) == nil)
        #expect(Set(parts.map { $0.baseAddress! }).count == 4)
        for index in [1, 3, 0, 2] { pool.deallocate(parts[index]) }
        #expect(pool.allocate(bytes: 16 << 12)?.count == 16 << 12)
    }
}

/// The ExCache's bookkeeping: what programs hold never adds up to more than there is, and nobody starves.
@Suite struct ExCacheTests {
    private func member(_ cache: ExCache) throws -> CacheShare {
        let share = try CacheShare(counters: ProgramCounters())
        cache.join(share)
        return share
    }

    @Test func programsGetNoMoreThanThereIs() throws {
        let cache = ExCache(capacityBytes: 1000 * 4096)
        let share = try member(cache)
        while cache.reserve(1, for: share) {}
        #expect(share.granted == 1000)
        cache.release(100, of: share)
        #expect(cache.reserve(100, for: share))
        #expect(!cache.reserve(1, for: share))
    }

    @Test func aProgramInNeedMakesTheOthersShrinkToTheirFairShare() throws {
        let cache = ExCache(capacityBytes: 1000 * 4096)
        let rich = try member(cache)
        while cache.reserve(1, for: rich) { rich.counters.setResident(rich.granted) }
        let poor = try member(cache)
        // The minimum is everybody's right.
        #expect(cache.reserve(ExCache.minimumPages, for: poor))
        #expect(!cache.reserve(1, for: poor))
        #expect(rich.ceilingPages.load(ordering: .relaxed) == 500)
        let wasAsked = rich.shrinkRequest.drain()
        #expect(wasAsked)
        cache.release(500, of: rich)
        #expect(cache.reserve(400, for: poor))
        cache.leave(poor)
        #expect(rich.ceilingPages.load(ordering: .relaxed) == .max)
        #expect(cache.reserve(400, for: rich))
    }
}
