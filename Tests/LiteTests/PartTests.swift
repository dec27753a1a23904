import CLinux
import Fabric
import Kernel
import Synchronization
import Testing
import Wire

@testable import Lite

extension LiteTests {
    @Suite struct Parts {
        private var greeting: Greeting {
            Greeting(
                index: 1, pairs: 2, node: NodeID(rawValue: 0x1122_3344_5566_7788), poolAddress: 0x10_0000,
                poolBytes: 4096,
                poolKey: 0xaabb_ccdd, poolAccess: [.read, .atomic], messageAddress: 0x20_0000, messageKey: 0x0102_0304,
                layout: MessageLayout(calls: 64, messageBytes: 65536))
        }

        @Test func greetingHasGoldenBytes() throws {
            let bytes = greeting.encode()
            #expect(
                bytes == [
                    0x4c, 0x49, 0x54, 0x45, 1, 1, 2, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
                    0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0,
                    0xdd, 0xcc, 0xbb, 0xaa, 4, 3, 2, 1, 64, 0, 5, 0, 0, 0, 1, 0,
                ])
            #expect(bytes.count == Greeting.encodedSize)
            #expect(try Greeting(decoding: bytes) == greeting)
            // A device may pad private data.
            #expect(try Greeting(decoding: bytes + [0, 0, 0]) == greeting)
        }

        @Test func greetingDecoderRefusesOrAnswersInRange() {
            var random = SeededGenerator(5)
            var accepted = 0
            for _ in 0..<20_000 {
                var bytes = greeting.encode()
                for _ in 0..<Int.random(in: 1...4, using: &random) {
                    bytes[Int.random(in: 4..<bytes.count, using: &random)] = .random(in: 0...255, using: &random)
                }
                guard let decoded = try? Greeting(decoding: bytes), decoded.verdict == .ok else { continue }
                accepted += 1
                #expect(LiteLimit.calls.contains(Int(decoded.calls)) && decoded.index < decoded.pairs)
                #expect(decoded.messageAddress <= UInt64.max - UInt64(decoded.layout.bytes))
            }
            #expect(accepted > 1000)
        }

        @Test func messageHeaderHasGoldenBytes() {
            var bytes = [UInt8](repeating: 0, count: 16)
            let header = MessageHeader(count: 0x0102, word: 0x0304_0506, call: 0x0708_090a_0b0c_0d0e)
            bytes.withUnsafeMutableBytes { header.store(at: $0.baseAddress!) }
            #expect(bytes == [2, 1, 0, 0, 6, 5, 4, 3, 0xe, 0xd, 0xc, 0xb, 0xa, 9, 8, 7])
            #expect(bytes.withUnsafeBytes { MessageHeader(at: $0.baseAddress!) } == header)
        }

        @Test func slotsOfALayoutDoNotOverlap() {
            for (calls, bytes) in [(1, 256), (3, 257), (64, 65536)] {
                let layout = MessageLayout(calls: calls, messageBytes: bytes)
                let starts = (0..<calls).map(layout.requestOffset) + (0..<calls).map(layout.responseOffset)
                for (before, after) in zip(starts, starts.dropFirst()) {
                    #expect(after - before >= bytes + MessageHeader.encodedSize)
                }
                #expect(starts.last! + bytes + MessageHeader.encodedSize <= layout.bytes)
            }
        }

        @Test(arguments: [1, 3, 63, 64, 65, 130]) func slotSetGivesEverySlotOnce(_ capacity: Int) {
            let slots = SlotSet(capacity: capacity)
            let all = (0..<capacity).map { _ in slots.take() }
            #expect(all == Array(0..<capacity))
            let none = (slots.take(), slots.isIdle)
            #expect(none == (nil, false))
            slots.give(capacity - 1)
            let last = slots.take()
            #expect(last == capacity - 1)
            for slot in 0..<capacity { slots.give(slot) }
            let isIdle = slots.isIdle
            #expect(isIdle)
            slots.restrict(to: 1)
            let restricted = [slots.take(), slots.take()]
            #expect(restricted == [0, nil])
            slots.give(0)
            let isIdleAgain = slots.isIdle
            #expect(isIdleAgain)
        }

        private final class SharedSlots: Sendable {
            let slots: SlotSet
            let holders: [Atomic<Int>.Holder]
            init(_ capacity: Int) {
                slots = SlotSet(capacity: capacity)
                holders = (0..<capacity).map { _ in Atomic<Int>.Holder() }
            }
        }

        @Test func slotSetIsExclusiveAmongThreads() throws {
            let shared = SharedSlots(3)
            let wrong = Atomic<Int>(0)
            try onThreads(6) { _ in
                for _ in 0..<2000 {
                    var taken = shared.slots.take()
                    while taken == nil {
                        if !shared.slots.waitForChange(until: patience, orWhen: { false }) {
                            wrong.add(1, ordering: .relaxed)
                            return
                        }
                        taken = shared.slots.take()
                    }
                    let holder = shared.holders[taken!]
                    if holder.value.add(1, ordering: .sequentiallyConsistent).newValue != 1 {
                        wrong.add(1, ordering: .relaxed)
                    }
                    holder.value.subtract(1, ordering: .sequentiallyConsistent)
                    shared.slots.give(taken!)
                }
            }
            let isIdle = shared.slots.isIdle
            #expect(wrong.load(ordering: .relaxed) == 0 && isIdle)
        }

        private final class Counter: @unchecked Sendable {
            let lock = AdaptiveLock()
            var value = 0
        }

        @Test func adaptiveLockExcludes() throws {
            let counter = Counter()
            try onThreads(4) { _ in
                for _ in 0..<20_000 {
                    counter.lock.lock()
                    counter.value += 1
                    counter.lock.unlock()
                }
            }
            #expect(counter.value == 80_000)
            let tries = [counter.lock.tryLock(), counter.lock.tryLock()]
            #expect(tries == [true, false])
        }

        @Test func transferCursorPassesOverEmptyPieces() {
            let base = UnsafeMutableRawPointer(bitPattern: 0x1000)!
            let pieces = [0, 5, 0, 0, 12, 0].map { Transfer(local: base, remoteOffset: 100, count: $0) }
            pieces.withUnsafeBufferPointer { buffer in
                var cursor = TransferCursor(buffer)
                var seen: [[Int]] = []
                while !cursor.isAtEnd {
                    let piece = cursor.peek(max: 8)
                    seen.append([piece.local - base, Int(piece.remoteOffset) - 100, piece.count])
                    #expect(cursor.isLast(piece.count) == (seen.count == 3))
                    cursor.advance(piece.count)
                }
                #expect(seen == [[0, 0, 5], [0, 0, 8], [8, 8, 4]])
            }
        }

        @Test func spinGaugeStopsAndTriesAgain() {
            let gauge = SpinGauge()
            let atFirst = gauge.shouldSpin()
            #expect(atFirst)
            for _ in 0..<10 { gauge.fail() }
            let tries = (0..<1280).count { _ in gauge.shouldSpin() }
            #expect(tries == 10)
            for _ in 0..<10 { gauge.succeed() }
            let again = gauge.shouldSpin()
            #expect(again)
        }

        @Test func workerPoolRunsWhatItTookAndRefusesTheRest() throws {
            let pool = WorkerPool<Int>(capacity: 3)
            let gate = Gate()
            let sum = Atomic<Int>(0)
            try pool.start(name: "test", threads: 1) { job in
                gate.pass()
                sum.add(job, ordering: .relaxed)
            }
            #expect(pool.add(1))
            #expect(eventually { gate.arrivals == 1 })
            #expect([2, 3, 4, 5].map(pool.add) == [true, true, true, false])
            gate.open()
            pool.stop()
            #expect(sum.load(ordering: .relaxed) == 10)
            #expect(!pool.add(1))
        }
    }
}

extension Atomic<Int> {
    /// An atomic that lives in an array.
    final class Holder: Sendable {
        let value = Atomic<Int>(0)
    }
}
