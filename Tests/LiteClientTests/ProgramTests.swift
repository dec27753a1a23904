import CLinux
import Fabric
import Glibc
import Kernel
import LiteClient
import Synchronization
import Testing

@testable import LiteService

extension LiteClientTests {
    @Suite(.serialized) struct Programs {
        @Test(.enabled(if: Program.canRun)) func everyFunctionFromC() throws {
            try withCluster(nodes: 2) { cluster in
                let path = cluster.members[0].path
                let program = try Program.compile("everything", into: cluster.directory)
                defer { unlink(program) }
                let (text, status) = try Program(program, [path]).wait()
                #expect(text == "ok\n")
                #expect(status == 0)
                #expect(eventually { cluster.members.allSatisfy { $0.service.usedBytes == 0 } })
                #expect(
                    eventually {
                        cluster.members.allSatisfy { $0.service.sessionCount == 0 && $0.service.lockCount == 0 }
                    })
            }
        }

        @Test(.enabled(if: Program.canRun)) func daemonsServeAProgram() throws {
            try withDirectory { directory in
                let program = try Program.compile("everything", into: directory)
                defer { unlink(program) }
                let (first, address) = try Program.daemon("node0", in: directory, [])
                let (second, _) = try Program.daemon("node1", in: directory, ["--peers", address])
                // The first knows of the second when a program of it does.
                let lite = try LiteSession(path: "\(directory)/node0")
                #expect(eventually { (try? lite.nodes().count) == 2 })
                #expect(
                    failure { () throws(LiteFailure) in _ = try LiteSession(path: "\(directory)/nobody") }
                        == .daemonLost)
                let (text, status) = try Program(program, ["\(directory)/node0"]).wait()
                #expect(text == "ok\n")
                #expect(status == 0)
                for daemon in [first, second] {
                    Glibc.kill(daemon.process, SIGTERM)
                    #expect(daemon.wait().status == 0)
                }
                #expect(access("\(directory)/node0", F_OK) != 0)
            }
        }

        @Test func aThousandPrograms() throws {
            try withCluster { cluster in
                var sessions: [LiteSession] = []
                var regions: [LiteRegion] = []
                for number in 0..<1000 {
                    sessions.append(try cluster.join())
                    regions.append(try sessions[number].malloc(64))
                    try sessions[number].write(regions[number], pattern(number, 64))
                }
                try onThreads(4) { [sessions, regions] thread in
                    for number in stride(from: thread, to: 1000, by: 4) {
                        let bytes = try sessions[number].read(regions[number], count: 64)
                        #expect(bytes == pattern(number, 64))
                    }
                }
                for session in sessions { session.leave() }
                #expect(eventually { cluster.members[0].service.sessionCount == 0 })
                #expect(eventually { cluster.members[0].service.usedBytes == 0 })
            }
        }

        /// As many processes, which meet at a barrier while all have joined.
        @Test(.enabled(if: Program.canRun && getenv("LEGO_TEST_ALL") != nil)) func aThousandProcesses() throws {
            #expect(lego_raise_descriptor_limit() >= 0)
            try withCluster { cluster in
                let path = try Program.compile("thousandth", into: cluster.directory)
                defer { unlink(path) }
                let programs = try (0..<1000).map { try Program(path, [cluster.members[0].path, "1000", "\($0)"]) }
                for program in programs {
                    let (text, status) = program.wait()
                    #expect(text == "ok\n")
                    #expect(status == 0)
                }
                #expect(eventually { cluster.members[0].service.sessionCount == 0 })
                #expect(eventually { cluster.members[0].service.usedBytes == 0 })
                #expect(cluster.members[0].service.barrierCount == 0)
            }
        }

        @Test(arguments: [SoftDeviceConfiguration.Transport.automatic, .tcp])
        func everyPriorityIsServed(_ transport: SoftDeviceConfiguration.Transport) throws {
            try withCluster(nodes: 2, transport: transport) { cluster in
                let isOver = Flag()
                let started = Atomic<Int>(0)
                var low = LiteSession.Options()
                low.priority = .low
                let writers = try (0..<4).map { _ in try cluster.join(0, low) }
                let threads = try writers.map { lite in
                    let region = try lite.malloc(4096, on: [cluster.members[1].id])
                    return try KernelThread(name: "low") {
                        var rounds = 0
                        while !isOver.isSet {
                            let failure = failure { () throws(LiteFailure) in
                                try lite.write(region, [UInt8(rounds & 0xff)])
                            }
                            #expect(failure == nil)
                            rounds += 1
                            if rounds == 2 { started.add(1, ordering: .relaxed) }
                        }
                        #expect(rounds > 2)
                    }
                }
                var options = LiteSession.Options()
                options.priority = .high
                let high = try cluster.join(0, options)
                let region = try high.malloc(4096, on: [cluster.members[1].id])
                // Goes on until each of the others has been served beside it.
                var round = 0
                let deadline = patience
                while started.load(ordering: .relaxed) < 4, !deadline.hasPassed {
                    try high.write(region, [UInt8(round & 0xff)])
                    #expect(try high.read(region, count: 1) == [UInt8(round & 0xff)])
                    round += 1
                }
                #expect(started.load(ordering: .relaxed) == 4)
                isOver.set()
                for thread in threads { thread.join() }
            }
        }

        @Test(.enabled(if: Program.canRun)) func aKilledProgramLeavesNothingBehind() throws {
            try withCluster(nodes: 2) { cluster in
                let program = try Program.compile("holder", into: cluster.directory)
                defer { unlink(program) }
                for index in 0..<2 {
                    let member = cluster.members[index]
                    let holder = try Program(program, [member.path])
                    #expect(holder.readLine() == "ready")
                    let lite = try cluster.join(1 - index)
                    let lock = try lite.openLock("held")
                    let waiter = try KernelThread(name: "waiter") {
                        do {
                            #expect(try lite.lock(lock, until: patience), "the former holder ended")
                        } catch { Issue.record("\(error)") }
                    }
                    #expect(eventually { member.service.waitersOfLocks == 1 })
                    holder.kill()
                    waiter.join()
                    try lite.unlock(lock)
                    try lite.close(lock)
                    #expect(eventually { member.service.sessionCount == 0 })
                    #expect(throws: LiteFailure.noFunction) {
                        try lite.send(member.id, 50, UnsafeRawBufferPointer(start: nil, count: 0))
                    }
                    // What has a name is still there; the rest is not.
                    #expect(eventually { member.service.usedBytes == 300_032 })
                    let kept = try lite.map("kept", .all)
                    try lite.free(kept)
                    #expect(eventually { member.service.usedBytes == 0 })
                    #expect(eventually { member.service.regionCount == 0 && member.service.lockCount == 0 })
                }
            }
        }

        @Test func aDaemonThatEndsIsNoticed() throws {
            let cluster = try TestCluster()
            let lite = try cluster.join()
            try lite.register(9, bytes_max: 8)
            let waiter = try KernelThread(name: "waiter") {
                var bytes: UInt64 = 0
                #expect(throws: LiteFailure.daemonLost) {
                    try withUnsafeMutableBytes(of: &bytes) { _ = try lite.receive(9, into: $0, until: patience) }
                }
            }
            #expect(eventually { cluster.members[0].service.receiverCount == 1 })
            cluster.close()
            waiter.join()
            #expect(throws: LiteFailure.daemonLost) { try lite.malloc(64) }
            #expect(throws: LiteFailure.daemonLost) { try LiteSession(path: "/nowhere") }
        }

        @Test func aProgramThatMakesNoSenseIsExpelled() throws {
            try withCluster { cluster in
                let honest = try cluster.join()
                let region = try honest.malloc(64)
                for mischief in Mischief.allCases {
                    let rogue = try cluster.join()
                    rogue.misbehave(mischief)
                    #expect(eventually { cluster.members[0].service.sessionCount == 1 }, "\(mischief)")
                    try honest.write(region, [1])
                }
            }
        }

        @Test func aLostNodeEndsWhatItHad() throws {
            try withCluster(nodes: 3) { cluster in
                let lite = try cluster.join(0)
                let far = try cluster.join(2)
                let nodes = cluster.members.map(\.id)
                // A region of the node that goes, memory on it, memory of its program here, a lock and a call.
                let theirs = try far.malloc(4096, on: [nodes[0]])
                try far.name(theirs, "theirs")
                let mapped = try lite.map("theirs")
                let mine = try lite.malloc(8192, on: [nodes[0], nodes[2]])
                let lock = try far.openLock("far")
                try far.lock(lock, until: patience)
                let waiting = try lite.openLock("far")
                try far.register(5, bytes_max: 8)
                let threads = [
                    try KernelThread(name: "locks") {
                        #expect(throws: LiteFailure.nodeLost) { try lite.lock(waiting, until: patience) }
                    },
                    try KernelThread(name: "calls") {
                        let nothing = UnsafeMutableRawBufferPointer(start: nil, count: 0)
                        #expect(throws: LiteFailure.nodeLost) {
                            try lite.call(nodes[2], 5, UnsafeRawBufferPointer(nothing), reply: nothing, until: patience)
                        }
                    },
                ]
                #expect(eventually { cluster.members[2].service.waitersOfLocks == 1 })
                cluster.lose(2)
                for thread in threads { thread.join() }
                #expect(eventually { cluster.members.allSatisfy { $0.service.memberCount == 1 } })
                #expect(throws: LiteFailure.gone) { try lite.read(mapped, count: 1) }
                #expect(throws: LiteFailure.nodeLost) { try lite.read(mine, at: 4096, count: 1) }
                #expect(try lite.read(mine, count: 1) == [0])
                #expect(throws: LiteFailure.noSuchName) { try lite.map("theirs") }
                try lite.free(mine)
                #expect(eventually { cluster.members.allSatisfy { $0.service.usedBytes == 0 } })
                // The cluster goes on, and takes new nodes.
                try cluster.add("node9")
                #expect(eventually { cluster.members.allSatisfy { $0.service.memberCount == 2 } })
                _ = try lite.malloc(64, on: [cluster.members[2].id])
            }
        }
    }
}
