import Fabric
import Glibc
import Kernel
import Synchronization
import Testing

extension Checks {
    /// After a deregistration nothing lands any more, however hard a peer tries; its requests fail.
    static func deregistration<Device>(_ bench: Bench<Device>) throws {
        try bench.withLab(bytes: 1 << 20) { lab in
            for opcode in [WorkOpcode.write, .read] {
                let (left, right) = try lab.connectAgain()
                let extra = try lab.right.device.allocate(bytes: 1 << 20, access: .all)
                let remote = (extra.remoteKey, extra.remoteAddress)
                let didBegin = Atomic<Bool>(false)
                let status = Mutex<WorkStatus?>(nil)
                let writer = try KernelThread(name: "writer") {
                    var seed = 1
                    while true {
                        memset(left.region.base, Int32(seed & 255), 4096)
                        seed += 1
                        guard left.post(opcode, [left.element(0, left.region.count)], to: remote),
                            let completion = try? left.next()
                        else { return }
                        if completion.status != .success { return status.withLock { $0 = completion.status } }
                        didBegin.store(true, ordering: .releasing)
                    }
                }
                while !didBegin.load(ordering: .acquiring) { sched_yield() }
                extra.deregister()
                let after = Array(UnsafeRawBufferPointer(start: extra.base, count: extra.count))
                writer.join()
                #expect(status.withLock { $0 } == .remoteAccess)
                #expect(after.elementsEqual(UnsafeRawBufferPointer(start: extra.base, count: extra.count)))
                extra.deregister()
                right.pair.disconnect()
            }
        }
    }

    /// Loads and stores to a peer's memory on the same host see what transfers do, are refused where those are, and hold a
    /// deregistration up; over other links there are none.
    static func directAccess<Device>(_ bench: Bench<Device>) throws {
        try bench.withLab(bytes: 1 << 16) { lab in
            let (left, right) = (lab.left, lab.right)
            let extra = try right.device.allocate(bytes: 1 << 16, access: .read)
            extra.base.storeBytes(of: 42, as: UInt64.self)
            func begin(_ key: UInt32, _ offset: UInt64, _ count: Int, _ access: RemoteAccess)
                -> UnsafeMutableRawPointer?
            { left.pair.beginAccess(key, address: extra.remoteAddress &+ offset, count: count, access) }
            // Not before a transfer has had the region mapped.
            #expect(begin(extra.remoteKey, 0, 8, .read) == nil)
            #expect(left.post(.read, [left.element(0, 8)], to: (extra.remoteKey, extra.remoteAddress)))
            try left.expectNext(.success)
            let place = begin(extra.remoteKey, 0, 1 << 16, .read)
            #expect((place != nil) == (left.pair.link == .sharedMemory))
            guard let place else { return }
            #expect(place.load(as: UInt64.self) == 42)
            for refused in [
                begin(extra.remoteKey, 1, 1 << 16, .read), begin(extra.remoteKey, .max, 1, .read),
                begin(extra.remoteKey, 0, -1, .read), begin(extra.remoteKey, 0, 8, .write),
                begin(extra.remoteKey ^ 1 << 20, 0, 8, .read),
            ] { #expect(refused == nil) }
            let isGone = Atomic<Bool>(false)
            let owner = try KernelThread(name: "owner") {
                extra.deregister()
                isGone.store(true, ordering: .releasing)
            }
            // Nothing new begins once it has; what has begun is waited for.
            while begin(extra.remoteKey, 0, 8, .read) != nil {
                left.pair.endAccess()
                sched_yield()
            }
            let isEarly = isGone.load(ordering: .acquiring)
            #expect(!isEarly)
            #expect(place.load(as: UInt64.self) == 42)
            left.pair.endAccess()
            owner.join()
            right.pair.disconnect()
            #expect(right.pair.awaitQuiet(until: .after(labTimeout)))
            let (key, address) = right.remote()
            #expect(left.pair.beginAccess(key, address: address, count: 8, .read) == nil)
        }
    }

    /// After a disconnection that has been waited for nothing lands any more, although the region stays registered.
    static func fencing<Device>(_ bench: Bench<Device>) throws {
        try bench.withLab(bytes: 1 << 20) { lab in
            let (left, right) = (lab.left, lab.right)
            let didBegin = Atomic<Bool>(false)
            let writer = try KernelThread(name: "writer") {
                var seed: Int32 = 1
                while true {
                    memset(left.region.base, seed & 255, left.region.count)
                    seed += 1
                    guard left.post(.write, [left.element(0, left.region.count)], to: right.remote()),
                        let completion = try? left.next(), completion.status == .success
                    else { return }
                    didBegin.store(true, ordering: .releasing)
                }
            }
            while !didBegin.load(ordering: .acquiring) { sched_yield() }
            right.pair.disconnect()
            #expect(right.pair.awaitQuiet(until: .after(labTimeout)))
            let after = Array(right.bytes)
            writer.join()
            #expect(after.elementsEqual(right.bytes))
        }
    }

    /// A region that has gone stays out of reach when its place in the adapter's table is used again.
    static func staleKeys<Device>(_ bench: Bench<Device>) throws {
        try bench.withLab(bytes: 4096) { lab in
            var keys: Set<UInt32> = []
            for round in 0..<50 {
                let region = try lab.right.device.allocate(bytes: 4096 * (1 + round % 3), access: .all)
                #expect(keys.insert(region.remoteKey).inserted)
                region.base.storeBytes(of: UInt64(round), as: UInt64.self)
                #expect(lab.left.post(.read, [lab.left.element(0, 8)], to: (region.remoteKey, region.remoteAddress)))
                try lab.left.expectNext(.success)
                #expect(lab.left.region.base.load(as: UInt64.self) == UInt64(round))
                region.deregister()
            }
            let stale = try #require(keys.first)
            #expect(lab.left.post(.read, [lab.left.element(0, 8)], to: (stale, lab.right.region.remoteAddress)))
            try lab.left.expectNext(.remoteAccess)
        }
    }

    /// Memory that the caller brought is as good as allocated memory, near and far.
    static func broughtMemory<Device>(_ bench: Bench<Device>) throws {
        try bench.withLab(bytes: 1 << 20) { lab in
            let (left, right) = (lab.left, lab.right)
            let size = 200_003
            let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: size + 8, alignment: 64)
            defer { memory.deallocate() }
            let region = try right.device.register(memory, access: .all)
            defer { region.deregister() }
            let remote = (region.remoteKey, region.remoteAddress)
            left.fill(0, 2 * size, seed: 4)
            #expect(left.post(.write, [left.element(1, size)], to: remote))
            try left.expectNext(.success)
            #expect(memcmp(left.region.base + 1, memory.baseAddress!, size) == 0)
            #expect(
                left.post(.read, [left.element(size + 9, 1000), left.element(size + 3000, size - 1000)], to: remote))
            try left.expectNext(.success)
            #expect(memcmp(left.region.base + size + 9, memory.baseAddress!, 1000) == 0)
            #expect(memcmp(left.region.base + size + 3000, memory.baseAddress! + 1000, size - 1000) == 0)
            #expect(right.postReceive([]))
            #expect(left.post(.writeWithImmediate, [left.element(7, 40_000)], to: remote) { $0.immediate = 9 })
            try left.expectNext(.success)
            #expect(try right.expectNext(.success).immediate == 9)
            #expect(memcmp(left.region.base + 7, memory.baseAddress!, 40_000) == 0)
            memory.storeBytes(of: 40, as: UInt64.self)
            #expect(left.post(.fetchAdd, [left.element(0, 8)], to: remote) { $0.operand = 2 })
            try left.expectNext(.success)
            #expect(left.region.base.load(as: UInt64.self) == 40 && memory.load(as: UInt64.self) == 42)
            // As a local element of the other side.
            #expect(left.postReceive([left.element(0, size)]))
            let own = ScatterElement(address: memory.baseAddress!, count: size, localKey: region.localKey)
            #expect(right.post(.send, [own]))
            try right.expectNext(.success, .send)
            try left.expectNext(.success, .receive)
            #expect(memcmp(left.region.base, memory.baseAddress!, size) == 0)
            #expect(
                left.post(.read, [left.element(0, 16)], to: (region.remoteKey, region.remoteAddress + UInt64(size))))
            try left.expectNext(.remoteAccess)
        }
    }

    /// A refused request, nobody there, nobody who answers, and something that is no device.
    static func failedConnections<Device>(_ bench: Bench<Device>) throws {
        let left = try (bench.makeLeft ?? bench.make)()
        defer { left.close() }
        let right = try bench.make()
        defer { right.close() }
        let address = try right.listen(on: FabricAddress(host: bench.host, port: 0))
        let queue = try left.makeCompletionQueue(capacity: 600)
        func connect(_ address: FabricAddress, _ timeout: Duration, privateData: [UInt8] = []) -> FabricError? {
            do throws(FabricError) {
                _ = try left.connect(
                    to: address, send: queue, receive: queue, parameters: QueuePairParameters(),
                    privateData: privateData,
                    until: .after(timeout), prepare: { (_: Device.Pair) throws(FabricError) in })
                return nil
            } catch {
                return error
            }
        }
        // Nobody accepts in time.
        let unanswered = connect(address, .milliseconds(200))
        guard case .timedOut? = unanswered else { throw LabError("not answered: \(String(describing: unanswered))") }
        let rejecter = try KernelThread(name: "rejecter") {
            // The request of the attempt above is still there; rejecting it reaches nobody.
            for _ in 0..<2 { ((try? right.nextRequest(until: .after(labTimeout))) ?? nil)?.reject() }
        }
        let refused = connect(address, labTimeout)
        rejecter.join()
        guard case .unreachable? = refused else { throw LabError("refused: \(String(describing: refused))") }
        guard case .invalid? = connect(address, labTimeout, privateData: [UInt8](repeating: 0, count: 57)) else {
            throw LabError("private data of 57 bytes was not refused")
        }
        #expect(throws: FabricError.self) { try right.listen(on: FabricAddress(host: bench.host, port: 0)) }
        right.close()
        guard case .unreachable? = connect(address, labTimeout) else {
            throw LabError("a closed port was not reported")
        }
        #expect(try right.nextRequest(until: .never) == nil)
    }

    /// Connecting and disconnecting leaves nothing behind.
    static func manyConnections<Device>(_ bench: Bench<Device>) throws {
        try bench.withLab(bytes: 1 << 16) { lab in
            func round() throws {
                let (left, right) = try lab.connectAgain()
                #expect(left.post(.write, [left.element(0, 4096)], to: right.remote()))
                try left.expectNext(.success)
                #expect(right.postReceive([]))
                left.pair.disconnect()
                try right.expectNext(.flushed)
                right.pair.disconnect()
            }
            for _ in 0..<200 { try round() }
            // An emulated machine takes a hundred times as long for a round.
            let rounds = Device.self == VerbsDevice.self && getenv("LEGO_TEST_ALL") == nil ? 1000 : 10_000
            try settle { for _ in 0..<rounds { try round() } }
        }
    }

    /// Devices that are made and closed leave nothing behind.
    static func manyDevices<Device>(_ bench: Bench<Device>) throws {
        func round() throws {
            try bench.withLab(bytes: 4096) { lab in
                #expect(lab.left.post(.write, [lab.left.element(0, 64)], to: lab.right.remote()))
                try lab.left.expectNext(.success)
            }
        }
        for _ in 0..<5 { try round() }
        try settle { for _ in 0..<50 { try round() } }
    }

    /// Measures before and after `work`: what is left behind must not grow with the rounds. The device's thread may be
    /// giving the last ones back, so the second measurement is repeated until it fits or the time is up.
    private static func settle(after work: () throws -> Void) throws {
        let before = Holdings()
        try work()
        let deadline = Deadline.after(.seconds(20))
        var after = Holdings()
        while !after.isWithin(before), !deadline.hasPassed {
            sched_yield()
            after = Holdings()
        }
        #expect(after.isWithin(before), "\(before) before, \(after) after")
    }
}

/// What this process has of the kernel.
struct Holdings {
    let descriptors = openDescriptors()
    let mappings = lines(of: "/proc/self/maps")
    let residentPages = residentMemory()

    /// Whether no more is held than `earlier`, but for what an allocator and the test itself keep.
    func isWithin(_ earlier: Holdings) -> Bool {
        descriptors <= earlier.descriptors + 4 && mappings <= earlier.mappings + 20
            && residentPages <= earlier.residentPages + 2048
    }
}

/// Descriptors that this process has open.
func openDescriptors() -> Int {
    guard let directory = opendir("/proc/self/fd") else { return -1 }
    defer { closedir(directory) }
    var count = 0
    while readdir(directory) != nil { count += 1 }
    return count
}

/// Pages of 4 KiB that this process has in memory: the second number of proc_pid_statm(5).
private func residentMemory() -> Int {
    let raw = open("/proc/self/statm", O_RDONLY | O_CLOEXEC)
    defer { close(raw) }
    var buffer = [UInt8](repeating: 0, count: 128)
    let count = read(raw, &buffer, buffer.count)
    let numbers = buffer.prefix(max(0, count)).split(separator: 32)
    return numbers.count > 1 ? Int(String(decoding: numbers[1], as: UTF8.self)) ?? -1 : -1
}

private func lines(of path: String) -> Int {
    let raw = open(path, O_RDONLY | O_CLOEXEC)
    defer { close(raw) }
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    var lines = 0
    while true {
        let count = read(raw, &buffer, buffer.count)
        if count <= 0 { return lines }
        lines += buffer[..<count].count { $0 == 10 }
    }
}
