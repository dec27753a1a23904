import Fabric
import Glibc
import Kernel
import Synchronization
import Testing

/// The conformance checks: what every device must do, written once against the seam.
enum Checks {
    static let sizes = [
        0, 1, 2, 3, 7, 8, 63, 64, 65, 4095, 4096, 4097, 8192, 8193, 65536, 131_071, 1_048_589, 64 << 20,
    ]

    /// Every opcode that moves bytes, at every size, from and to odd offsets; the bytes around stay as they were.
    static func sizesOfTransfers<Device>(_ bench: Bench<Device>) throws {
        let room = 64 << 20 + 8192
        try bench.withLab(bytes: room) { lab in
            let (left, right) = (lab.left, lab.right)
            for (step, size) in sizes.enumerated() {
                let (from, to) = (1 + step % 7, 13 + step % 5)
                for opcode in [WorkOpcode.read, .write, .writeWithImmediate, .send] {
                    left.fill(0, size + 64, seed: step)
                    right.fill(0, size + 64, seed: step + 1000)
                    let guardBefore = Array(right.bytes[..<to])
                    let guardAfter = Array(right.bytes[(to + size)..<(to + size + 16)])
                    if opcode == .send { #expect(right.postReceive([right.element(to, size)], id: 7)) }
                    if opcode == .writeWithImmediate { #expect(right.postReceive([], id: 7)) }
                    #expect(
                        left.post(opcode, [left.element(from, size)], id: 5, to: right.remote(to)) {
                            $0.immediate = 0xfeed_0001
                        })
                    let sent = try left.next()
                    #expect(sent.status == .success && sent.id == 5 && sent.kind == .send, "\(opcode) \(size): \(sent)")
                    #expect(sent.queuePair == left.pair.number)
                    if opcode == .send || opcode == .writeWithImmediate {
                        let received = try right.next()
                        #expect(received.status == .success && received.id == 7 && Int(received.count) == size)
                        #expect(received.kind == (opcode == .send ? .receive : .receiveImmediate))
                        #expect(received.queuePair == right.pair.number)
                        if opcode != .send { #expect(received.immediate == 0xfeed_0001) }
                    }
                    #expect(areEqual(left, from, right, to, size), "\(opcode) of \(size) bytes")
                    #expect(guardBefore.elementsEqual(right.bytes[..<to]))
                    #expect(guardAfter.elementsEqual(right.bytes[(to + size)..<(to + size + 16)]))
                }
            }
        }
    }

    /// Scatter lists on both ends, with empty pieces.
    static func scatterLists<Device>(_ bench: Bench<Device>) throws {
        try bench.withLab(bytes: 1 << 20) { lab in
            let (left, right) = (lab.left, lab.right)
            for pieces in [[1, 2, 3, 4], [0, 5000, 0, 70_001], [4096], [33_333, 1]] {
                left.fill(0, left.region.count, seed: pieces.count)
                let total = pieces.reduce(0, +)
                var offset = 11
                var elements: [ScatterElement] = []
                var expected: [UInt8] = []
                for piece in pieces {
                    elements.append(left.element(offset, piece))
                    expected += left.bytes[offset..<(offset + piece)]
                    offset += piece + 100
                }
                #expect(left.post(.write, elements, to: right.remote(5)))
                try left.expectNext(.success)
                #expect(right.bytes[5..<(5 + total)].elementsEqual(expected))
                // A receive list cut at other places.
                let cut = total / 3
                #expect(right.postReceive([right.element(300_000, cut), right.element(500_000, total - cut + 9)]))
                #expect(left.post(.send, elements))
                try left.expectNext(.success)
                let received = try right.expectNext(.success)
                #expect(Int(received.count) == total)
                #expect(right.bytes[300_000..<(300_000 + cut)].elementsEqual(expected[..<cut]))
                #expect(right.bytes[500_000..<(500_000 + total - cut)].elementsEqual(expected[cut...]))
                // And back by READ, into the pieces.
                for element in elements where element.count > 0 { memset(element.address, 0, Int(element.count)) }
                #expect(left.post(.read, elements, to: right.remote(5)))
                try left.expectNext(.success)
                let back = elements.flatMap { UnsafeRawBufferPointer(start: $0.address, count: Int($0.count)) }
                #expect(back.elementsEqual(expected))
            }
        }
    }

    /// Inline bytes are the caller's again as soon as the post returns.
    static func inlineData<Device>(_ bench: Bench<Device>) throws {
        try bench.withLab(bytes: 64 << 10) { lab in
            for index in 0..<64 {
                lab.left.fill(0, 200, seed: index)
                let expected = Array(lab.left.bytes[3..<203])
                #expect(
                    lab.left.post(.write, [lab.left.element(3, 200)], to: lab.right.remote(256 * index)) {
                        $0.isInline = true
                    })
                memset(lab.left.region.base, 0, 256)
                try lab.left.expectNext(.success)
                #expect(lab.right.bytes[(256 * index)..<(256 * index + 200)].elementsEqual(expected))
            }
        }
    }

    /// Only signalled requests complete, in order; a full queue refuses, and takes requests again once there is room.
    static func manyOutstanding<Device>(_ bench: Bench<Device>) throws {
        try bench.withLab(bytes: 4 << 20) { lab in
            let (left, right) = (lab.left, lab.right)
            left.fill(0, left.region.count, seed: 3)
            let requests = 4096
            var (posted, expected) = (0, UInt64(0))
            while posted < requests {
                let offset = posted * 1024
                let isSignaled = posted % 16 == 15
                let isPosted = left.post(
                    .write, [left.element(offset, 1000)], id: UInt64(posted), to: right.remote(offset)
                ) {
                    $0.isSignaled = isSignaled
                }
                if isPosted { posted += 1 }
                while let completion = isPosted ? left.poll() : try left.next() {
                    #expect(completion.status == .success && completion.id == expected * 16 + 15)
                    expected += 1
                    if !isPosted { break }
                }
            }
            while expected < requests / 16 {
                #expect(try left.next().id == expected * 16 + 15)
                expected += 1
            }
            for offset in stride(from: 0, to: requests * 1024, by: 1024) {
                #expect(areEqual(left, offset, right, offset, 1000))
            }
        }
    }

    /// A thousand requests are taken before the first completion is: all end well and in order, in both queues.
    static func thousandOutstanding<Device>(_ bench: Bench<Device>) throws {
        let count = 1000
        var parameters = QueuePairParameters()
        parameters.sendRequests_max = 1024
        parameters.receiveRequests_max = 1024
        try bench.withLab(bytes: 4 << 20, parameters: parameters) { lab in
            let (left, right) = (lab.left, lab.right)
            left.fill(0, 1 << 20, seed: 5)
            right.fill(2 << 20, 1 << 20, seed: 6)
            for id in 0..<count { #expect(right.postReceive([right.element(1 << 20 | id * 64, 64)], id: UInt64(id))) }
            for id in 0..<count {
                let isPosted =
                    switch id % 3 {
                    case 0: left.post(.send, [left.element(id * 1024, 61)], id: UInt64(id))
                    case 1:
                        left.post(.write, [left.element(id * 1024, 1001)], id: UInt64(id), to: right.remote(id * 1024))
                    default:
                        left.post(
                            .read, [left.element(2 << 20 | id * 1024, 1003)], id: UInt64(id),
                            to: right.remote(2 << 20 | id * 1024))
                    }
                #expect(isPosted, "request \(id)")
            }
            for id in 0..<count {
                let completion = try left.expectNext(.success)
                #expect(completion.id == UInt64(id))
            }
            for (index, id) in stride(from: 0, to: count, by: 3).enumerated() {
                let received = try right.expectNext(.success)
                #expect(received.id == UInt64(index) && received.count == 61)
                #expect(areEqual(left, id * 1024, right, 1 << 20 | index * 64, 61))
            }
            for id in 0..<count where id % 3 == 1 { #expect(areEqual(left, id * 1024, right, id * 1024, 1001)) }
            for id in 0..<count where id % 3 == 2 {
                #expect(areEqual(left, 2 << 20 | id * 1024, right, 2 << 20 | id * 1024, 1003))
            }
        }
    }

    /// What a WRITE before a SEND wrote is there when the SEND has been received.
    static func ordering<Device>(_ bench: Bench<Device>) throws {
        try bench.withLab(bytes: 256 << 10) { lab in
            let (left, right) = (lab.left, lab.right)
            let rounds = 2000
            let sender = try KernelThread(name: "sender") {
                for round in 1...rounds {
                    // A slot of the ring of receives bounds how far the sender runs ahead, by receiver-not-ready.
                    left.fill(0, 2048, seed: round)
                    while !left.post(.write, [left.element(0, 2048)], to: right.remote(8192), { $0.isSignaled = false })
                    {
                        _ = try? left.next()
                    }
                    while !left.post(.send, [left.element(0, 8)], id: UInt64(round)) { _ = try? left.next() }
                    guard let completion = try? left.next(.send), completion.status == .success else { return }
                    // One at a time: the receiver looks at the bytes before the next round overwrites them.
                    guard let turn = try? left.next(.receive), turn.status == .success,
                        left.postReceive([left.element(4096, 8)])
                    else { return }
                }
            }
            #expect(left.postReceive([left.element(4096, 8)]))
            for round in 1...rounds {
                #expect(right.postReceive([right.element(0, 8)]))
                let received = try right.next(.receive)
                try #require(received.status == .success)
                right.fill(16384, 2048, seed: round)
                #expect(areEqual(right, 8192, right, 16384, 2048), "round \(round)")
                #expect(right.post(.send, [right.element(0, 8)]) { $0.isSignaled = false })
            }
            sender.join()
        }
    }

    /// Messages arrive in their order, each once, whoever takes them in: polls of any size, and the device's thread while
    /// nobody polls.
    static func numberedMessages<Device>(_ bench: Bench<Device>) throws {
        let (messages, receives) = (20_000, 1000)
        var parameters = QueuePairParameters()
        parameters.receiveRequests_max = 1024
        try bench.withLab(bytes: 1 << 20, parameters: parameters) { lab in
            let (left, right) = (lab.left, lab.right)
            for id in 0..<receives { #expect(right.postReceive([right.element(id * 64, 64)], id: UInt64(id))) }
            let sender = try KernelThread(name: "sender") {
                for number in 0..<messages {
                    left.region.base.storeBytes(of: UInt64(number), as: UInt64.self)
                    let isPosted = left.post(.send, [left.element(0, 8)]) { $0.isInline = true }
                    // Half of what may be under way is, before the first end is waited for.
                    guard isPosted, number < 128 || (try? left.next())?.status == .success else { return }
                }
            }
            defer {
                right.pair.disconnect()
                sender.join()
            }
            try right.takeNumbered(messages, sizes: [1, 3, 32, 300])
        }
    }

    /// Both directions at full load at once: neither waits for the other to fall silent.
    static func bothDirections<Device>(_ bench: Bench<Device>) throws {
        let size = 16 << 20
        try bench.withLab(bytes: 4 * size) { lab in
            lab.left.fill(0, size, seed: 1)
            lab.right.fill(2 * size, size, seed: 2)
            for _ in 0..<4 {
                #expect(lab.left.post(.write, [lab.left.element(0, size)], to: lab.right.remote()))
                #expect(lab.right.post(.write, [lab.right.element(2 * size, size)], to: lab.left.remote(2 * size)))
                #expect(lab.left.post(.read, [lab.left.element(3 * size, size)], to: lab.right.remote(2 * size)))
                for _ in 0..<2 { try lab.left.expectNext(.success) }
                try lab.right.expectNext(.success)
            }
            #expect(areEqual(lab.left, 0, lab.right, 0, size))
            #expect(areEqual(lab.left, 2 * size, lab.right, 2 * size, size))
            #expect(areEqual(lab.left, 3 * size, lab.right, 2 * size, size))
        }
    }

    /// Fetch-and-add and compare-and-swap from four connections at once lose nothing, and answer the former value.
    static func atomics<Device>(_ bench: Bench<Device>) throws {
        try bench.withLab(bytes: 4096) { lab in
            let rounds = 2000
            let peers = try (0..<4).map { _ in try lab.connectAgain() }
            let word = lab.right.region.base.assumingMemoryBound(to: UInt64.self)
            let sums = Mutex<[UInt64]>([])
            let threads = try peers.map { peer in
                let left = peer.0
                return try KernelThread(name: "atomics") {
                    var sum: UInt64 = 0
                    for round in 0..<rounds {
                        let isPosted = left.post(.fetchAdd, [left.element(0, 8)], to: lab.right.remote()) {
                            $0.operand = 3
                        }
                        guard isPosted, let completion = try? left.next(), completion.status == .success else { return }
                        sum += left.region.base.load(as: UInt64.self)
                        // A counter kept by compare-and-swap alone.
                        var expected: UInt64 = 0
                        while true {
                            let isPosted = left.post(.compareSwap, [left.element(8, 8)], to: lab.right.remote(64)) {
                                $0.operand = expected
                                $0.swap = expected + 1
                            }
                            guard isPosted, let completion = try? left.next(), completion.status == .success else {
                                return
                            }
                            let former = left.region.base.load(fromByteOffset: 8, as: UInt64.self)
                            if former == expected { break }
                            expected = former
                        }
                        if round == rounds - 1 { sums.withLock { $0.append(sum) } }
                    }
                }
            }
            for thread in threads { thread.join() }
            let adds = UInt64(4 * rounds)
            #expect(word[0] == 3 * adds)
            #expect(word[8] == adds)
            // Each former value was answered to exactly one of them.
            #expect(sums.withLock { $0.reduce(0, +) } == 3 * (adds * (adds - 1) / 2))
            for (left, right) in peers {
                left.pair.disconnect()
                right.pair.disconnect()
            }
        }
    }
}

extension Side {
    /// Takes messages that carry their number, by polls of these sizes in turn, and lets the connection alone now and then.
    fileprivate func takeNumbered(_ count: Int, sizes: [Int]) throws {
        var taken = 0
        let deadline = Deadline.after(labTimeout)
        let completions = UnsafeMutableBufferPointer<WorkCompletion>.allocate(capacity: sizes.max() ?? 1)
        defer { completions.deallocate() }
        for round in 0... where taken < count {
            if deadline.hasPassed { throw LabError("\(taken) messages within \(labTimeout)") }
            // A yielded turn lets the sender go on to where it must wait.
            if round % 64 == 0 { sched_yield() }
            let room = UnsafeMutableBufferPointer(rebasing: completions[..<sizes[round % sizes.count]])
            for completion in room[..<queue.poll(into: room)] {
                let place = Int(completion.id) * 64
                try #require(completion.status == .success && completion.count == 8)
                try #require(region.base.load(fromByteOffset: place, as: UInt64.self) == UInt64(taken))
                taken += 1
                #expect(postReceive([element(place, 64)], id: completion.id))
            }
            if taken == count { return }
        }
    }
}
