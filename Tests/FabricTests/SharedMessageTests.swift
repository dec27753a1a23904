import Fabric
import Kernel
import Testing

/// Messages over shared memory: slots, pieces and the ring, which other ways do not have.
@Suite(.serialized) struct SharedMessageTests {
    /// Lengths on both sides of every limit: none, one line, a slot, pieces of either size, more than the ring.
    private static let lengths = [
        0, 1, 8, 48, 49, 112, 113, 220, 2048, 2049, 4096, 8192, 8193, 65536, 131_072, 131_073, 300_001,
    ]

    @Test func everyLengthInTurn() throws {
        try softBench(.sharedMemory).withLab(bytes: 1 << 20) { lab in
            // Enough for the slots and the ring to go round many times, from another place each time.
            for round in 0..<600 {
                let length = Self.lengths[round * 7 % Self.lengths.count]
                let from = round % 64
                lab.left.fill(from, length, seed: round)
                #expect(lab.right.postReceive([lab.right.element(0, 512 << 10)], id: UInt64(round)))
                let isPosted = lab.left.post(.send, [lab.left.element(from, length)], id: UInt64(round)) {
                    $0.isInline = length <= 64 && round % 2 == 0
                    $0.isSignaled = round % 3 == 0
                }
                #expect(isPosted)
                let received = try lab.right.expectNext(.success)
                #expect(received.id == UInt64(round) && Int(received.count) == length)
                #expect(areEqual(lab.left, from, lab.right, 0, length))
                if round % 3 == 0 { try lab.left.expectNext(.success) }
            }
        }
    }

    /// Many are under way before anybody looks: all of them come, in their order.
    @Test func aReceiverThatComesLate() throws {
        try softBench(.sharedMemory).withLab(bytes: 1 << 20) { lab in
            let count = 100
            for number in 0..<count {
                #expect(lab.right.postReceive([lab.right.element(number * 4096, 4096)], id: UInt64(number)))
            }
            for number in 0..<count {
                lab.left.fill(number * 4096, 4096, seed: number)
                #expect(lab.left.post(.send, [lab.left.element(number * 4096, 1 + number * 40)], id: UInt64(number)))
            }
            for number in 0..<count {
                let received = try lab.right.expectNext(.success)
                #expect(received.id == UInt64(number) && Int(received.count) == 1 + number * 40)
                #expect(areEqual(lab.left, number * 4096, lab.right, number * 4096, 1 + number * 40))
                let sent = try lab.left.expectNext(.success)
                #expect(sent.id == UInt64(number))
            }
        }
    }

    /// A request that is not signalled takes no place in the completion queue, unless it fails: then it waits for one,
    /// and its reason is not lost.
    @Test func aFailureThatWaitsForAPlace() throws {
        try softBench(.sharedMemory).withLab(bytes: 4096, capacity: 1) { lab in
            #expect(lab.left.post(.write, [lab.left.element(0, 8)], id: 1, to: lab.right.remote()))
            let wrong = (key: lab.right.remote().key ^ 0x1000, address: lab.right.remote().address)
            let isPosted = lab.left.post(.write, [lab.left.element(0, 8)], id: 2, to: wrong) { $0.isSignaled = false }
            #expect(isPosted)
            #expect(lab.left.post(.write, [lab.left.element(0, 8)], id: 3, to: lab.right.remote()))
            let completions = try [
                lab.left.expectNext(.success), lab.left.expectNext(.remoteAccess), lab.left.expectNext(.flushed),
            ]
            #expect(completions.map(\.id) == [1, 2, 3])
        }
    }
}
