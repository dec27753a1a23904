import Glibc
import Kernel
import ProcessorService
import Testing

/// Programs under a monitor, with so little local memory that nearly everything they touch is evicted in between. Each
/// program checks its own memory; the launcher ends it after a deadline.
@Suite(.serialized)
struct CaptureTests {
    private static let limit: UInt64 = 1500 * 4096
    /// What is resident may exceed the limit by a twentieth, and by pages that the kernel reaches without waiting for a
    /// fault, which are brought whatever room there is.
    private static let bound = limit + limit / 20 + 16 * 4096

    private func compile(_ name: String, _ directory: String, _ options: [String] = []) throws -> String {
        let source = "\(CapturePrograms.directory)/\(name).c"
        let program = "\(directory)/\(name)"
        try CapturePrograms.command(["cc", "-Wall", "-Wextra", "-O1", "-o", program, source, "-lpthread"] + options)
        return program
    }

    /// Compiles a test program and runs it in a rack of its own.
    private func run(_ name: String, _ arguments: [String] = [], _ options: [String] = []) throws -> CaptureRack.Outcome
    {
        try CapturePrograms.withDirectory { directory in
            let launcher = try compile("launcher", directory)
            let program = try compile(name, directory, options)
            return try CaptureRack().run([program] + arguments, limitBytes: Self.limit, launcher: launcher)
        }
    }

    /// The same, with a file of nine pages and a part as its argument.
    private func runWithFile(_ name: String) throws -> CaptureRack.Outcome {
        try CapturePrograms.withDirectory { directory in
            let file = "\(directory)/file"
            let bytes = (0..<9 * 4096 + 100).map { UInt8(truncatingIfNeeded: $0 * 7 + $0 / 4096) }
            try CapturePrograms.write(bytes, to: file)
            return try run(name, [file])
        }
    }

    private func expectOK(_ outcome: CaptureRack.Outcome, evicts: Bool = true) {
        #expect(outcome.status == 0)
        #expect(outcome.output == "ok\n" || outcome.output == "skipped\n", "\(outcome.output)")
        #expect(outcome.failure == nil)
        #expect(outcome.statistics.peakResidentBytes <= Self.bound)
        if evicts { #expect(outcome.statistics.evictedPages > 0) }
    }

    @Test(arguments: [
        "fork_snapshot", "threads", "fork_threads", "thread_exit", "wide_vector", "lost_writes", "interrupted_calls",
        "inherited_handler", "segment_bases",
    ])
    func memoryIsRight(_ name: String) throws {
        expectOK(try run(name))
    }

    @Test func aProgramThatOutgrowsItsRoomKeepsWhatItHad() throws {
        let outcome = try run("outgrows")
        #expect(outcome.output == "ok\nok\n", "\(outcome.output)")
        #expect(outcome.status == 0 && outcome.failure == nil)
        #expect(outcome.statistics.evictedPages > 6000)
        #expect(outcome.statistics.peakResidentBytes <= Self.bound)
    }

    /// 800 pages, each of which would fault by itself.
    @Test func memoryThatFitsTakesNoFaults() throws {
        let outcome = try run("outgrows", ["fits"])
        expectOK(outcome, evicts: false)
        #expect(outcome.statistics.faults < 400, "\(outcome.statistics)")
        #expect(outcome.statistics.peakResidentBytes >= 800 * 4096)
    }

    /// A mapped file of 6000 pages, read from one end to the other three times: a quarter of it fits. Of 64 KiB each the first
    /// time takes 375 faults, and page by page the second and the third 12000.
    @Test func aMappedFileIsReadAsAStream() throws {
        let outcome = try runWithFile("file_stream")
        expectOK(outcome)
        #expect(outcome.statistics.faults < 700, "\(outcome.statistics)")
    }

    /// Files that the kernel maps, before and after the program outgrows its room.
    @Test func mappedFilesAreRight() throws {
        expectOK(try runWithFile("mapped_files"))
    }

    /// 512 hot pages between visits of 1000 others, with room for 1500: in one queue every hot page would leave before
    /// its next visit, and each of the 11 later rounds read all of them again (5632 reads).
    @Test func whatComesBackSoonIsKept() throws {
        let outcome = try run("hot_set")
        expectOK(outcome)
        // Some 900 of 1000 scattered visits miss in each of 12 rounds; the hot set is read twice before it is proven.
        #expect(outcome.statistics.remoteReadPages < 12 * 1000 + 2 * 512, "\(outcome.statistics)")
    }

    /// Six walks over records that point to 16384 scattered pages, a tenth of which fit: some 95000 of the pages are
    /// absent when the walk comes to them, and each would fault, twice where it is read and then written. The first touches
    /// alone are 16600.
    @Test(arguments: ["read", "write"])
    func whatAStreamPointsToIsThereBeforeItIsUsed(_ mode: String) throws {
        let outcome = try run("pointer_walk", [mode])
        expectOK(outcome)
        #expect(outcome.statistics.remoteReadPages > 90_000, "\(outcome.statistics)")
        #expect(outcome.statistics.faults < 47_000, "\(outcome.statistics)")
    }

    /// 25200 visits, nearly each of which finds its page absent: of each twelve, five fault.
    @Test func theRowsOfABlockAreThereBeforeTheyAreUsed() throws {
        let outcome = try run("matrix_blocks")
        expectOK(outcome)
        #expect(outcome.statistics.remoteReadPages > 22_000, "\(outcome.statistics)")
        #expect(outcome.statistics.faults < 13_000, "\(outcome.statistics)")
    }

    /// Eight rounds through 5120 pages with room for 1500.
    @Test func aLoopThatDoesNotFitKeepsAPartOfItself() throws {
        let outcome = try run("long_loop")
        expectOK(outcome)
        #expect(outcome.statistics.remoteReadPages < 37_500, "\(outcome.statistics)")
        #expect(outcome.statistics.peakResidentBytes <= Self.limit * 105 / 100, "\(outcome.statistics)")
    }

    @Test func theCallsThatChangeMemory() throws {
        expectOK(try runWithFile("memory_calls"))
    }

    /// What is locked, watched by the program's own userfaultfd, traced, limited, filtered, or asked to be given up.
    @Test func theKindsOfMemory() throws {
        expectOK(try runWithFile("memory_kinds"))
    }

    @Test(arguments: ["dma", "direct_read", "kernel_buffers"])
    func pinnedMemoryStaysWhereTheDeviceWrites(_ name: String) throws {
        try CapturePrograms.withDirectory { directory in
            let launcher = try compile("launcher", directory)
            let program = try compile(name, directory)
            let rack = try CaptureRack()
            expectOK(try rack.run([program, "\(directory)/data"], limitBytes: Self.limit, launcher: launcher))
        }
    }

    /// Futexes, stacks and guards, moved memory, and processes and threads in numbers.
    @Test(arguments: ["futexes", "stacks", "remaps", "families"])
    func whatTheKernelDoesWithAbsentPages(_ name: String) throws {
        expectOK(try run(name))
    }

    @Test func staticProgram() throws {
        expectOK(try run("fork_snapshot", [], ["-static"]))
    }

    @Test(arguments: [
        // Whether sort gets an error before head has ended is not said, and not whether it dies of it.
        "seq 200000 | sort -rn 2>/dev/null | head -1",
        "for i in 1 2 3 4 5; do (echo $i; true) | cat; done | sort -n | tail -1",
        "perl -e 'my %h; $h{$_ % 1000} .= $_ for 1..200000; print length(join \"\", map { $h{$_} } sort keys %h), \"\\n\"'",
    ])
    func shellOutputIsThatOfANativeRun(_ script: String) throws {
        try CapturePrograms.withDirectory { directory in
            let launcher = try compile("launcher", directory)
            let native = try CapturePrograms.command(["sh", "-c", script])
            let rack = try CaptureRack()
            let outcome = try rack.run(["/bin/sh", "-c", script], limitBytes: Self.limit, launcher: launcher)
            #expect(outcome.status == 0)
            #expect(outcome.output == native)
            #expect(outcome.statistics.peakResidentBytes <= Self.bound)
        }
    }

    @Test func compilerOutputIsThatOfANativeRun() throws {
        try CapturePrograms.withDirectory { directory in
            let launcher = try compile("launcher", directory)
            let source = "\(CapturePrograms.directory)/threads.c"
            let command = { (output: String) in ["gcc", "-O1", "-c", "-o", output, source] }
            try CapturePrograms.command(command("\(directory)/native.o"))
            let rack = try CaptureRack()
            let outcome = try rack.run(
                ["/usr/bin/env"] + command("\(directory)/captured.o"), limitBytes: 4 * Self.limit, launcher: launcher)
            #expect(outcome.status == 0)
            #expect(
                try CapturePrograms.read("\(directory)/native.o") == CapturePrograms.read("\(directory)/captured.o"))
        }
    }

    /// What is killed while an agent is put into it must be seen dead by its parent.
    @Test func programsThatAreKilledWhileTheyStart() throws {
        try CapturePrograms.withDirectory { directory in
            let launcher = try compile("launcher", directory)
            let rack = try CaptureRack()
            let script =
                "for i in 1 2 3; do for j in 1 2 3 4 5 6 7 8 9; do "
                + "timeout -s KILL 0.00$j sh -c 'exec /bin/true'; done; done 2>/dev/null; echo ok"
            let outcome = try rack.run(["/bin/bash", "-c", script], limitBytes: Self.limit, launcher: launcher)
            expectOK(outcome, evicts: false)
        }
    }

    /// A process that has ended and is not reaped by its parent, here because the parent is another program meanwhile. The bound is
    /// one of processor time: a busy machine takes less.
    @Test func aProcessThatNobodyReapsCostsNothing() throws {
        func processorTime_ns() -> UInt64 {
            let threads = directoryEntries("/proc/self/task").filter {
                readText("/proc/self/task/\($0)/comm").hasPrefix("monitor")
            }
            return threads.reduce(0) { sum, thread in
                sum + (UInt64(readText("/proc/self/task/\(thread)/schedstat").split(separator: " ").first ?? "") ?? 0)
            }
        }
        func hasZombie() -> Bool {
            directoryEntries("/proc").contains {
                let status = readText("/proc/\($0)/status")
                return status.hasPrefix("Name:\ttrue\n") && status.contains("State:\tZ")
            }
        }
        try CapturePrograms.withDirectory { directory in
            let launcher = try compile("launcher", directory)
            var wasThere = false
            var spent_ns: UInt64 = 0
            let outcome = try CaptureRack().run(
                ["/bin/sh", "-c", "/bin/true & exec /bin/sleep 2"], launcher: launcher,
                during: { _ in
                    wasThere = eventually(hasZombie)
                    let before = processorTime_ns()
                    // For so long it is looked at; nothing is waited for.
                    var span = timespec(tv_sec: 0, tv_nsec: 300_000_000)
                    nanosleep(&span, nil)
                    spent_ns = processorTime_ns() &- before
                })
            #expect(wasThere)
            #expect(outcome.status == 0)
            #expect(spent_ns < 100_000_000)
        }
    }

    @Test func exitStatusAndSignalAreTheProgramsOwn() throws {
        try CapturePrograms.withDirectory { directory in
            let launcher = try compile("launcher", directory)
            let rack = try CaptureRack()
            #expect(try rack.run(["/bin/sh", "-c", "exit 7"], launcher: launcher).status == 7)
            #expect(try rack.run(["/bin/sh", "-c", "kill -TERM $$"], launcher: launcher).status == 128 + SIGTERM)
        }
    }

    @Test func aFullMemoryComponentEndsTheProgramWithTheReason() throws {
        try CapturePrograms.withDirectory { directory in
            let launcher = try compile("launcher", directory)
            let program = try compile("fork_snapshot", directory)
            let rack = try CaptureRack(memoryBytes: 4 << 20)
            let outcome = try rack.run([program], limitBytes: Self.limit, launcher: launcher)
            #expect(outcome.status == 128 + SIGKILL)
            guard case .outOfRemoteMemory(let reason)? = outcome.failure else {
                Issue.record("failed as \(String(describing: outcome.failure))")
                return
            }
            #expect(reason.contains("no memory component"))
        }
    }

    @Test func aLostMemoryComponentEndsTheProgramWithTheReason() throws {
        try CapturePrograms.withDirectory { directory in
            let launcher = try compile("launcher", directory)
            let rack = try CaptureRack()
            let outcome = try rack.run(
                ["/bin/sh", "-c", "seq 400000 | sort -rn | tail -1; sleep 50"], limitBytes: Self.limit,
                launcher: launcher,
                during: { monitor in
                    let deadline = Deadline.after(.seconds(30))
                    while monitor.statistics().remoteWritePages < 100, !deadline.hasPassed { sched_yield() }
                    monitor.memoryLost(rack.memories[0].node.id)
                })
            guard case .componentLost(let name, let bytes)? = outcome.failure else {
                Issue.record("failed as \(String(describing: outcome.failure))")
                return
            }
            #expect(name == "memory0")
            #expect(bytes > 0)
        }
    }

    @Test func anAgentThatTheProgramKillsIsReplaced() throws {
        expectOK(try run("agent_killer"))
    }

    @Test func twoProgramsShareTheCache() throws {
        try CapturePrograms.withDirectory { directory in
            let launcher = try compile("launcher", directory)
            let program = try compile("threads", directory)
            let rack = try CaptureRack(cacheBytes: 2 * Self.limit)
            let outcomes = OutcomeBox()
            let other = try KernelThread(name: "second") {
                outcomes.set(try? rack.run([program], launcher: launcher))
            }
            let first = try rack.run([program], launcher: launcher)
            other.join()
            let second = try #require(outcomes.value)
            for outcome in [first, second] {
                #expect(outcome.status == 0)
                #expect(outcome.output == "ok\n")
            }
            #expect(rack.cache.residentBytes == 0)
        }
    }
}
