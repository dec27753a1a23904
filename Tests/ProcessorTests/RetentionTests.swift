import Glibc
import Kernel
import Testing

@testable import ProcessorService

/// What the queues of an address space make of patterns of use: how many pages come, with as much room as here is said. Only
/// what happens at a fault is told them, as in the monitor.
@Suite struct RetentionTests {
    private static let room = 8192

    /// An address space whose pages come one by one and leave in batches of 64.
    private final class Cache {
        let space: AddressSpace
        private(set) var arrivals: UInt64 = 0
        private var departures: UInt64 = 0
        private let victims = UnsafeMutablePointer<UInt64>.allocate(capacity: 64)
        private let retains: Bool

        init(retains: Bool) {
            self.retains = retains
            space = AddressSpace(slot: 0, generation: 1, userfault: Descriptor(taking: dup(2)))
        }
        deinit { victims.deallocate() }

        func use(_ page: Int, isAlone: Bool = false) {
            let page = UInt64(page)
            let entry = space.table.entry(page)
            if entry.pointee.isResident { return }
            if space.resident >= RetentionTests.room { evict() }
            space.resident += 1
            arrivals += 1
            space.enqueue(
                page, entry, isAlone: isAlone, arrivals: arrivals, departures: departures,
                UInt64(RetentionTests.room / 64))
            entry.pointee.set(PageEntry.resident)
        }

        private func evict() {
            if retains {
                space.retention.review(
                    departures: departures, resident: space.resident, retained: space.residentRetained)
            }
            let queue = space.leavingQueue
            let count = space.pick(victims, from: queue, 64, stamp: arrivals >> 6)
            space.retention.noteBatch(of: count, from: queue)
            for index in 0..<count { leave(space.table.entry(victims[index])) }
        }

        private func leave(_ entry: PageTable.EntryPointer) {
            space.dequeue(entry.pointee)
            entry.pointee.clear(PageEntry.resident | PageEntry.proven)
            space.resident -= 1
            departures += 1
            entry.pointee.departure = max(1, departures >> 6 & 0xffff)
        }
    }

    /// Arrivals with retention, of a thousand without.
    private func share(_ pattern: (Cache) -> Void) -> UInt64 {
        let retaining = Cache(retains: true)
        let plain = Cache(retains: false)
        pattern(retaining)
        pattern(plain)
        return retaining.arrivals * 1000 / plain.arrivals
    }

    private func loop(_ cache: Cache, from first: Int = 0, pages: Int, rounds: Int) {
        for _ in 0..<rounds { for page in first..<first + pages { cache.use(page) } }
    }

    @Test func aLoopLargerThanTheRoomKeepsAPartOfItself() {
        #expect(share { loop($0, pages: 2 * Self.room, rounds: 20) } < 620)
        #expect(share { loop($0, pages: 4 * Self.room, rounds: 20) } < 840)
        #expect(share { loop($0, pages: 4 * Self.room, rounds: 5) } < 900)
    }

    @Test func aLoopThatFitsIsNotKeptOutByOneThatDoesNot() {
        let share = share {
            loop($0, pages: 4 * Self.room, rounds: 6)
            loop($0, from: 1 << 24, pages: Self.room * 4 / 5, rounds: 40)
        }
        #expect(share < 950)
    }

    @Test func whatComesBackSoonCostsRetentionItsRoom() {
        // Blocks that fit, each used eight times, in a loop that does not.
        let share = share { cache in
            for _ in 0..<4 {
                for block in 0..<8 { loop(cache, from: block * Self.room / 2, pages: Self.room / 2, rounds: 8) }
            }
        }
        #expect(share < 1150)
    }

    @Test func sortingInHalvesLosesNothing() {
        func sort(_ cache: Cache, _ first: Int, _ count: Int) {
            if count > 8 {
                sort(cache, first, count / 2)
                sort(cache, first + count / 2, count / 2)
            }
            let other = 4 * Self.room
            for page in first..<first + count { cache.use(page) }
            for page in first..<first + count { cache.use(other + page) }
            for page in first..<first + count { cache.use(page) }
        }
        #expect(share { sort($0, 0, 4 * Self.room) } < 1030)
    }

    /// A table that fits, once a loop is over that did not, beside a scan.
    @Test func aTableThatFitsHasItsRoomOnceALoopIsOver() {
        let share = share { cache in
            loop(cache, pages: 4 * Self.room, rounds: 6)
            var state: UInt64 = 1
            for step in 0..<20 * Self.room {
                state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                cache.use(1 << 24 + Int(state >> 33) % (Self.room * 3 / 4), isAlone: true)
                cache.use(1 << 25 + step / 2)
            }
        }
        #expect(share < 950)
    }

    @Test func whatIsUsedAtRandomStaysBesideALoop() {
        let share = share { cache in
            var state: UInt64 = 1
            for step in 0..<20 * 4 * Self.room {
                state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                cache.use(1 << 24 + Int(state >> 33) % (Self.room / 2), isAlone: true)
                cache.use(step % (4 * Self.room))
            }
        }
        #expect(share < 1000)
    }
}
