import CLinux
import Fabric
import Glibc
import Kernel
import Synchronization
import Testing

/// Where a pool's memory comes from: huge pages, a NUMA node. Seen in what the kernel says of the mapping.
@Suite(.serialized) struct PoolPlacementTests {
    private static let bytes = 5 << 20
    private static let setting = "/proc/sys/vm/nr_hugepages"

    private func text(_ path: String) -> String {
        var bytes: [UInt8] = []
        guard let file = fopen(path, "r") else { return "" }
        defer { fclose(file) }
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = fread(&buffer, 1, buffer.count, file)
            if count == 0 { return String(decoding: bytes, as: UTF8.self) }
            bytes += buffer[..<count]
        }
    }

    private func write(_ text: String, to path: String) -> Bool {
        guard let file = fopen(path, "w") else { return false }
        let isWritten = fputs(text, file) >= 0
        return fclose(file) == 0 && isWritten
    }

    /// Runs `body` while the host keeps `count` huge pages more; loudly does not where it cannot.
    private func withHugePages(_ count: Int, _ body: () throws -> Void) throws {
        let before = Int(text(Self.setting).split(separator: "\n").first ?? "0") ?? 0
        defer { _ = write("\(before)", to: Self.setting) }
        guard write("\(before + count)", to: Self.setting),
            Int(text(Self.setting).split(separator: "\n").first ?? "0") == before + count
        else {
            print("SKIPPED huge pages: this host gives none (\(Self.setting), needs root)")
            return
        }
        try body()
    }

    /// The kernel's page size of the mapping at an address, in KiB, as smaps(5) has it.
    private func pageSize(at base: UnsafeMutableRawPointer) -> Int? {
        let start = String(UInt(bitPattern: base), radix: 16)
        var isHere = false
        for line in text("/proc/self/smaps").split(separator: "\n") {
            if line.hasPrefix("\(start)-") { isHere = true }
            if isHere, line.hasPrefix("KernelPageSize:") {
                return line.split(separator: " ").dropFirst().first.flatMap { Int($0) }
            }
        }
        return nil
    }

    private func device(_ hugePages: HugePages, node: Int? = nil) throws -> SoftDevice {
        var configuration = SoftDeviceConfiguration()
        configuration.hugePages = hugePages
        configuration.memoryNode = node
        return try SoftDevice(configuration: configuration)
    }

    @Test(arguments: [HugePages.always, .automatic])
    func poolsInHugePages(kind: HugePages) throws {
        try withHugePages(8) {
            let left = try device(.never)
            defer { left.close() }
            let right = try device(kind)
            defer { right.close() }
            let address = try right.listen(on: FabricAddress(host: "127.0.0.1", port: 0))
            let (near, far) = try connectSides(left, right, address, Plan())
            let pool = try right.allocatePool(bytes: Self.bytes, access: .all)
            #expect(pageSize(at: pool.base) == 2048 && pool.count == Self.bytes)
            // The last bytes are in a page that the pool does not fill.
            let last = (pool.remoteKey, pool.remoteAddress + UInt64(Self.bytes - 64))
            near.fill(0, 64, seed: 4)
            #expect(near.post(.write, [near.element(0, 64)], to: last))
            try near.expectNext(.success)
            #expect(memcmp(near.region.base, pool.base + Self.bytes - 64, 64) == 0)
            #expect(near.post(.read, [near.element(128, 64)], to: (last.0, last.1 + 1)))
            try near.expectNext(.remoteAccess)
            pool.deregister()
            _ = far
        }
    }

    @Test func tooFewHugePages() throws {
        let always = try device(.always)
        defer { always.close() }
        do throws(FabricError) {
            _ = try always.allocatePool(bytes: 1 << 44, access: .all)
            Issue.record("16 TiB of huge pages")
        } catch {
            let line = "\(error)"
            #expect(line.contains("huge pages") && line.contains("vm.nr_hugepages") && !line.contains("\n"))
        }
        let auto = try device(.automatic)
        defer { auto.close() }
        let pool = try auto.allocatePool(bytes: 1 << 36, access: .all)
        #expect(pageSize(at: pool.base) == 4)
    }

    /// A thread maps memory, looks whether it is still there, and unmaps it, until it is told to end.
    private final class Neighbour: Sendable {
        let isDone = Atomic(false)
        let rounds = Atomic(0)
        let losses = Atomic(0)

        func run() {
            while !isDone.load(ordering: .acquiring) {
                let memory = mmap(nil, 64 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
                guard let memory, memory != MAP_FAILED else { continue }
                sched_yield()
                // Of a page that is gone the kernel says so; a touch of it would end the tests.
                var state: UInt8 = 0
                if mincore(memory, 4096, &state) < 0 { losses.add(1, ordering: .relaxed) }
                munmap(memory, 64 << 20)
                rounds.add(1, ordering: .relaxed)
            }
        }
    }

    @Test func hugePagesThatCannotBeHadLeaveOthersMemoryAlone() throws {
        let neighbour = Neighbour()
        let thread = try KernelThread(name: "neighbour") { neighbour.run() }
        var refused = 0
        for _ in 0..<2_000 {
            // More than any host's huge pages: the kernel refuses after it has looked at the place.
            let file = try Descriptor(checking: "memfd_create", lego_memfd_create_huge("lego-test", 1 << 42))
            do throws(KernelError) { _ = try MemoryFile.map(file.raw, bytes: 1 << 42, writable: true) } catch {
                refused += 1
            }
        }
        neighbour.isDone.store(true, ordering: .releasing)
        thread.join()
        #expect(refused == 2_000)
        #expect(neighbour.rounds.load(ordering: .relaxed) > 0)
        #expect(neighbour.losses.load(ordering: .relaxed) == 0)
    }

    @Test func poolsOnANode() throws {
        let device = try device(.never, node: 0)
        defer { device.close() }
        let pool = try device.allocatePool(bytes: Self.bytes, access: .all)
        memset(pool.base, 1, Self.bytes)
        let start = String(UInt(bitPattern: pool.base), radix: 16)
        let line = text("/proc/self/numa_maps").split(separator: "\n").first { $0.hasPrefix("\(start) ") }
        if let line {
            #expect(line.hasPrefix("\(start) bind:0") && line.contains("N0=\(Self.bytes / 4096)"), "\(line)")
        } else {
            print("SKIPPED numa_maps: this kernel has none")
        }
        let beyond = try self.device(.never, node: MemoryNode.count)
        defer { beyond.close() }
        #expect(throws: FabricError.self) { try beyond.allocatePool(bytes: 4096, access: .all) }
        #expect(throws: FabricError.self) { try MemoryNode.run(on: MemoryNode.count) }
        try MemoryNode.run(on: 0)
    }
}
