import Fabric
import Glibc
import Kernel
import LiteClient
import Synchronization
import Testing

@testable import LiteService

extension LiteClientTests {
    @Suite(.serialized) struct Locks {
        @Test(arguments: [SoftDeviceConfiguration.Transport.automatic, .tcp])
        func aLockIsHeldByOne(_ transport: SoftDeviceConfiguration.Transport) throws {
            try withCluster(nodes: 2, transport: transport) { cluster in
                let sessions = try (0..<4).map { try cluster.join($0 % 2) }
                let region = try sessions[0].malloc(64)
                try sessions[0].name(region, "counter")
                try onThreads(4) { thread in
                    let lite = sessions[thread]
                    let lock = try lite.openLock("mutex")
                    let counter = try lite.map("counter")
                    for _ in 0..<50 {
                        try lite.lock(lock, until: patience)
                        // Not atomic: only the lock keeps it right.
                        let value = try lite.read(counter, count: 1)[0]
                        try lite.write(counter, [value &+ 1])
                        try lite.unlock(lock)
                    }
                    try lite.close(lock)
                }
                #expect(try sessions[0].read(region, count: 1)[0] == 200)
                #expect(eventually { cluster.members.allSatisfy { $0.service.lockCount == 0 } })
            }
        }

        @Test func waitersComeInTheirOrder() throws {
            try withCluster { cluster in
                let holder = try cluster.join()
                let held = try holder.openLock("order")
                try holder.lock(held, until: patience)
                let order = Mutex<[Int]>([])
                var threads: [KernelThread] = []
                for number in 0..<4 {
                    let lite = try cluster.join()
                    let lock = try lite.openLock("order")
                    threads.append(
                        try KernelThread(name: "waiter") {
                            do {
                                try lite.lock(lock, until: patience)
                                order.withLock { $0.append(number) }
                                try lite.unlock(lock)
                            } catch { Issue.record("\(error)") }
                        })
                    #expect(eventually { cluster.members[0].service.waitersOfLocks == number + 1 })
                }
                try holder.unlock(held)
                for thread in threads { thread.join() }
                #expect(order.withLock { $0 } == [0, 1, 2, 3])
            }
        }

        @Test func aWaiterThatGivesUpIsPassedOver() throws {
            try withCluster(nodes: 2) { cluster in
                let holder = try cluster.join(0)
                let waiter = try cluster.join(1)
                let third = try cluster.join(1)
                let held = try holder.openLock("x")
                let waiting = try waiter.openLock("x")
                let last = try third.openLock("x")
                try holder.lock(held, until: patience)
                #expect(throws: LiteFailure.invalid) { try holder.lock(held, until: patience) }
                #expect(throws: LiteFailure.timedOut) { try waiter.lock(waiting, until: .after(.milliseconds(20))) }
                #expect(throws: LiteFailure.notHeld) { try waiter.unlock(waiting) }
                #expect(throws: LiteFailure.badHandle) { try waiter.unlock(held) }
                try holder.unlock(held)
                #expect(try third.lock(last, until: patience) == false)
                try third.unlock(last)
                #expect(try waiter.lock(waiting, until: patience) == false)
            }
        }

        @Test func aHolderThatEndsPassesTheLockOn() throws {
            try withCluster(nodes: 2) { cluster in
                // Whoever is told may be back before its node has heard that it was.
                for round in 0..<20 { try passOn(cluster, "x\(round)") }
            }
        }

        private func passOn(_ cluster: TestCluster, _ name: String) throws {
            let holder = try cluster.join(1)
            let held = try holder.openLock(name)
            let waiter = try cluster.join(0)
            let waiting = try waiter.openLock(name)
            try holder.lock(held, until: patience)
            let thread = try KernelThread(name: "waiter") {
                do {
                    #expect(try waiter.lock(waiting, until: patience), "the former holder ended")
                    try waiter.unlock(waiting)
                    #expect(try waiter.lock(waiting, until: patience) == false)
                } catch { Issue.record("\(error)") }
            }
            #expect(eventually { cluster.members[1].service.waitersOfLocks == 1 })
            holder.leave()
            thread.join()
            waiter.leave()
        }

        /// Programs that end on their way to a barrier, at one moment or another, leave none behind.
        @Test func whoEndsBeforeABarrierLeavesNone() throws {
            try withCluster(nodes: 2) { cluster in
                for round in 0..<30 {
                    let leaver = try cluster.join(round % 2)
                    let thread = try KernelThread(name: "leaver") {
                        _ = failure { () throws(LiteFailure) in
                            try leaver.barrier("left", parties: 2, until: patience)
                        }
                    }
                    // It has made the barrier, and is not there yet, or just so.
                    let limit = patience
                    while !limit.hasPassed, !cluster.members.contains(where: { $0.service.barrierCount == 1 }) {}
                    leaver.leave()
                    thread.join()
                }
                #expect(eventually { cluster.members.allSatisfy { $0.service.barrierCount == 0 } })
                // And nobody is counted who is not there any more.
                let lite = try cluster.join(0)
                #expect(throws: LiteFailure.timedOut) {
                    try lite.barrier("left", parties: 2, until: .after(.milliseconds(20)))
                }
            }
        }

        @Test func aBarrierOpensForAll() throws {
            try withCluster(nodes: 2) { cluster in
                let sessions = try (0..<4).map { try cluster.join($0 % 2) }
                let arrived = Atomic<Int>(0)
                try onThreads(4) { thread in
                    for round in 1...10 {
                        arrived.add(1, ordering: .sequentiallyConsistent)
                        try sessions[thread].barrier("start", parties: 4, until: patience)
                        #expect(arrived.load(ordering: .sequentiallyConsistent) >= 4 * round)
                    }
                }
                let lite = sessions[0]
                #expect(throws: LiteFailure.timedOut) {
                    try lite.barrier("start", parties: 2, until: .after(.milliseconds(20)))
                }
                #expect(throws: LiteFailure.invalid) { try lite.barrier("start", parties: 0, until: patience) }
                try lite.barrier("start", parties: 1, until: patience)
                // Who gave up does not count, nor does who ended.
                let leaver = try cluster.join(1)
                let waiting = try KernelThread(name: "leaver") {
                    _ = failure { () throws(LiteFailure) in
                        try leaver.barrier("start", parties: 2, until: .after(.seconds(2)))
                    }
                }
                #expect(eventually { cluster.members.contains { $0.service.barrierCount == 1 } })
                leaver.leave()
                #expect(eventually { cluster.members.allSatisfy { $0.service.barrierCount == 0 } })
                waiting.join()
            }
        }

        @Test func wordsAreChangedAtomically() throws {
            for transport in [SoftDeviceConfiguration.Transport.automatic, .tcp] {
                try withCluster(nodes: 2, transport: transport) { cluster in
                    let sessions = try (0..<4).map { try cluster.join($0 % 2) }
                    let region = try sessions[0].malloc(128, on: [cluster.members[1].id])
                    try sessions[0].name(region, "words")
                    try onThreads(4) { thread in
                        let mapped = try sessions[thread].map("words")
                        for _ in 0..<100 { _ = try sessions[thread].fetchAdd(mapped, at: 8, 3) }
                        var expected: UInt64 = 0
                        for _ in 0..<20 {
                            while true {
                                let former = try sessions[thread].testSet(
                                    mapped, at: 16, expected: expected, desired: expected + 1)
                                if former == expected { break }
                                expected = former
                            }
                        }
                    }
                    #expect(try sessions[0].fetchAdd(region, at: 8, 0) == 1200)
                    #expect(try sessions[0].fetchAdd(region, at: 16, 0) == 80)
                    #expect(throws: LiteFailure.invalid) { try sessions[0].fetchAdd(region, at: 4, 1) }
                    #expect(throws: LiteFailure.outOfRange) { try sessions[0].fetchAdd(region, at: 128, 1) }
                }
            }
        }

        @Test(arguments: [SoftDeviceConfiguration.Transport.automatic, .tcp])
        func memoryIsSetAndMovedWhereItIs(_ transport: SoftDeviceConfiguration.Transport) throws {
            try withCluster(nodes: 2, transport: transport) { cluster in
                let lite = try cluster.join()
                let nodes = cluster.members.map(\.id)
                let region = try lite.malloc(5 << 20, on: [nodes[0], nodes[1], nodes[0]])
                var model = [UInt8](repeating: 0, count: 5 << 20)
                try lite.memset(region, at: 100, 0x5a, count: 5 << 20 - 200)
                for index in 100..<(5 << 20 - 100) { model[index] = 0x5a }
                #expect(try lite.read(region, count: model.count) == model)
                try lite.write(region, at: 1_000_000, pattern(1, 900_000))
                model.replaceSubrange(1_000_000..<1_900_000, with: pattern(1, 900_000))
                // Overlapping, up and down, across the seams.
                for (to, from, count) in [(1_500_000, 1_000_000, 900_000), (1_200_000, 1_400_000, 1_000_000)] {
                    #expect(throws: LiteFailure.invalid) {
                        try lite.memcpy(
                            to: region, at: UInt64(to), from: region, at: UInt64(from), count: UInt64(count))
                    }
                    try lite.memmove(to: region, at: UInt64(to), from: region, at: UInt64(from), count: UInt64(count))
                    model.replaceSubrange(to..<to + count, with: Array(model[from..<from + count]))
                    #expect(try lite.read(region, count: model.count) == model)
                }
                let other = try lite.malloc(2 << 20, on: [nodes[1]])
                try lite.memcpy(to: other, at: 77, from: region, at: 1_199_990, count: 500_001)
                #expect(try lite.read(other, at: 77, count: 500_001) == Array(model[1_199_990..<1_699_991]))
                #expect(throws: LiteFailure.outOfRange) {
                    try lite.memcpy(to: other, at: 0, from: region, at: 0, count: 3 << 20)
                }
                #expect(throws: LiteFailure.invalid) { try lite.memset(other, at: 0, 1, count: 0) }
            }
        }
    }
}
