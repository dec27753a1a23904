import Fabric
import Glibc
import Kernel
import Synchronization
import Testing

/// The rack's device behaves as those that it is made of, and takes the best way that both ends have.
@Suite(.serialized) struct HybridDeviceTests {
    private let bench = Bench(
        make: { try HybridDevice(HybridDeviceConfiguration(path: .automatic)) }, host: "127.0.0.1")

    @Test func transfers() throws { try Checks.scatterLists(bench) }
    @Test func flush() throws { try Checks.flush(bench) }
    @Test func atomics() throws { try Checks.atomics(bench) }
    @Test func failedConnections() throws { try Checks.failedConnections(bench) }

    /// A device of the path at each end, and the link between the two; nil when they cannot be connected.
    private func link(_ left: FabricPath, _ right: FabricPath, host: String, other: String) throws -> LinkKind? {
        let bench = Bench(
            make: { try HybridDevice(HybridDeviceConfiguration(path: right, address: host)) },
            makeLeft: { try HybridDevice(HybridDeviceConfiguration(path: left, address: other)) }, host: host)
        do {
            return try bench.withLab { lab in
                #expect(lab.left.pair.link == lab.right.pair.link)
                return lab.left.pair.link
            }
        } catch FabricError.unreachable {
            return nil
        }
    }

    @Test func pathsWithoutAdapter() throws {
        let cases: [(FabricPath, FabricPath, LinkKind?)] = [
            (.automatic, .automatic, .sharedMemory), (.automatic, .sharedMemory, .sharedMemory),
            (.automatic, .tcp, .tcp), (.tcp, .automatic, .tcp), (.network, .automatic, .tcp),
            (.sharedMemory, .tcp, nil), (.tcp, .sharedMemory, nil),
        ]
        for (left, right, kind) in cases {
            #expect(try link(left, right, host: "127.0.0.1", other: "127.0.0.1") == kind, "\(left) to \(right)")
        }
        #expect(throws: FabricError.self) {
            try HybridDevice(HybridDeviceConfiguration(path: .verbs, address: "127.0.0.1"))
        }
    }

    /// Hosts with and without an adapter in one rack.
    @Test(.enabled(if: VerbsHost.pair != nil, "needs two adapters, see VerbsHost"))
    func pathsWithAdapters() throws {
        let (one, two) = try #require(VerbsHost.pair)
        let none = "127.0.0.1"
        let cases: [(FabricPath, String, FabricPath, String, LinkKind?)] = [
            (.automatic, one, .automatic, two, .sharedMemory), (.network, one, .network, two, .verbs),
            (.network, one, .automatic, two, .verbs), (.verbs, one, .automatic, two, .verbs),
            (.network, one, .verbs, two, .verbs), (.verbs, one, .verbs, one, .verbs),
            (.network, one, .tcp, two, .tcp), (.tcp, one, .network, two, .tcp),
            (.network, none, .network, two, .tcp), (.network, one, .network, none, .tcp),
            (.tcp, one, .verbs, two, nil), (.automatic, none, .verbs, two, nil), (.verbs, one, .tcp, two, nil),
        ]
        for (left, other, right, host, kind) in cases {
            #expect(
                try link(left, right, host: host, other: other) == kind, "\(left) at \(other) to \(right) at \(host)")
        }
    }

    /// Connections over both ways share regions and completion queues.
    @Test(.enabled(if: VerbsHost.pair != nil, "needs two adapters, see VerbsHost"))
    func mixedLinks() throws {
        let (one, two) = try #require(VerbsHost.pair)
        let hub = try HybridDevice(HybridDeviceConfiguration(path: .network, address: one))
        defer { hub.close() }
        let far = try HybridDevice(HybridDeviceConfiguration(path: .network, address: two))
        defer { far.close() }
        let near = try HybridDevice(HybridDeviceConfiguration(path: .automatic, address: "127.0.0.1"))
        defer { near.close() }
        let address = try hub.listen(on: FabricAddress(host: one, port: 0))
        let shared = try Shared(hub)
        let sides = try [far, near].map { try shared.connect($0, address) }
        #expect(sides.map(\.left.pair.link) == [.verbs, .tcp])
        for (index, side) in sides.enumerated() {
            side.left.fill(0, 4096, seed: index + 1)
            #expect(side.right.postReceive([], id: UInt64(index)))
            #expect(
                side.left.post(.writeWithImmediate, [side.left.element(0, 4096)], to: side.right.remote(4096 * index)))
            try side.left.expectNext(.success)
            let received = try side.right.expectNext(.success)
            #expect(received.id == UInt64(index) && received.queuePair == side.right.pair.number)
            #expect(areEqual(side.left, 0, side.right, 4096 * index, 4096))
            // And from the shared memory, whose one key serves both ways.
            #expect(side.right.post(.write, [side.right.element(4096 * index, 4096)], to: side.left.remote(8192)))
            try side.right.expectNext(.success)
            #expect(areEqual(side.left, 8192, side.right, 4096 * index, 4096))
        }
        for side in sides { side.left.pair.disconnect() }
    }

    /// One region and one completion queue for all connections of a device.
    private struct Shared {
        let device: HybridDevice
        let queue: HybridCompletionQueue
        let region: HybridRegion

        init(_ device: HybridDevice) throws {
            self.device = device
            queue = try device.makeCompletionQueue(capacity: 4096)
            region = try device.allocate(bytes: 1 << 16, access: .all)
        }

        /// Accepts a connection of `other`.
        func connect(_ other: HybridDevice, _ address: FabricAddress) throws -> (
            left: Side<HybridDevice>, right: Side<HybridDevice>
        ) {
            let accepted = Mutex<Result<HybridQueuePair, any Error>?>(nil)
            let acceptor = try KernelThread(name: "acceptor") {
                let result = Result<HybridQueuePair, any Error> {
                    guard let request = try device.nextRequest(until: .after(labTimeout)) else {
                        throw LabError("no request")
                    }
                    return try request.accept(
                        send: queue, receive: queue, parameters: QueuePairParameters(), privateData: [],
                        prepare: { (_: HybridQueuePair) throws(FabricError) in })
                }
                accepted.withLock { $0 = result }
            }
            let theirs = try Shared(other)
            let pair = Result {
                try other.connect(
                    to: address, send: theirs.queue, receive: theirs.queue, parameters: QueuePairParameters(),
                    privateData: [], until: .after(labTimeout),
                    prepare: { (_: HybridQueuePair) throws(FabricError) in }
                ).0
            }
            acceptor.join()
            let left = Side(device: other, queue: theirs.queue, region: theirs.region, pair: try pair.get())
            guard let mine = try accepted.withLock({ $0 })?.get() else { throw LabError("the acceptor did not finish") }
            return (left, Side(device: device, queue: queue, region: region, pair: mine))
        }
    }

    /// On one host the automatic choice is shared memory, and TCP where one end insists.
    @Test func linkKinds() throws {
        try softBench(.automatic).withLab { lab in #expect(lab.left.pair.link == .sharedMemory) }
        try softBench(.tcp).withLab { lab in #expect(lab.left.pair.link == .tcp) }
    }

    /// Devices that are connected and have nothing to do use no processor time, also after traffic.
    @Test func idleness() throws {
        for transport in [SoftDeviceConfiguration.Transport.sharedMemory, .tcp] {
            try softBench(transport).withLab { lab in
                #expect(lab.left.post(.write, [lab.left.element(0, 4096)], to: lab.right.remote()))
                try lab.left.expectNext(.success)
                lab.left.queue.arm()
                lab.right.queue.arm()
                let before = processorTime()
                var entries = [lab.left, lab.right].map {
                    pollfd(fd: $0.queue.notificationDescriptor, events: Int16(POLLIN), revents: 0)
                }
                // Nothing comes: this sleeps the whole second.
                #expect(poll(&entries, 2, 1000) == 0)
                #expect(processorTime() - before < 20_000_000, "processor time in ns over \(transport)")
            }
        }
    }

    /// Nanoseconds of processor time that all threads of this process have used.
    private func processorTime() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}
