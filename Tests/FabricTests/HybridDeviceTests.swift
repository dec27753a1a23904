import Fabric
import Glibc
import Kernel
import Testing

/// The device of either kind behaves as the one that it wraps.
@Suite(.serialized) struct HybridDeviceTests {
    private let bench = Bench(
        make: { try HybridDevice(.soft(SoftDeviceConfiguration(transport: .automatic))) }, host: "127.0.0.1")

    @Test func transfers() throws { try Checks.scatterLists(bench) }
    @Test func flush() throws { try Checks.flush(bench) }
    @Test func atomics() throws { try Checks.atomics(bench) }
    @Test func failedConnections() throws { try Checks.failedConnections(bench) }

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
