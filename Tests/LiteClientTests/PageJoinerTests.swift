import CLinux
import Glibc
import Kernel
import Testing

@testable import LiteService

extension LiteClientTests {
    @Suite struct PageJoining {
        private static let pages = 4

        /// Pages in use are joined, others are not, no byte changes; and once taken apart they are joined again.
        @Test func whatIsInUseIsJoined() throws {
            let bytes = Self.pages * PageJoiner.hugeBytes
            let file = try MemoryFile(name: "arena", bytes: bytes)
            memset(file.base, 1, PageJoiner.hugeBytes)
            let result = lego_memory_collapse(file.base, UInt64(PageJoiner.hugeBytes))
            if result == -EINVAL {
                print("SKIPPED joining pages: this kernel does not do so for shared memory")
                return
            }
            let joiner = PageJoiner(pool: file.base, start: 4096, count: bytes - 4096)
            try joiner.run()
            defer { joiner.stop() }
            // The first huge page is not whole; of the others one is in use, one hardly, one not.
            let used = file.base + PageJoiner.hugeBytes
            for offset in stride(from: 0, to: PageJoiner.hugeBytes, by: 4096) {
                (used + offset).storeBytes(of: offset, as: Int.self)
            }
            memset(used + PageJoiner.hugeBytes, 2, 8192)
            joiner.announce()
            #expect(eventually { joiner.joinedCount == 1 })
            for offset in stride(from: 0, to: PageJoiner.hugeBytes, by: 4096) {
                #expect((used + offset).load(as: Int.self) == offset)
            }
            #expect(madvise(used, PageJoiner.hugeBytes, MADV_REMOVE) == 0)
            joiner.forget(PageJoiner.hugeBytes, PageJoiner.hugeBytes)
            memset(used, 3, PageJoiner.hugeBytes)
            joiner.announce()
            #expect(eventually { joiner.joinedCount == 2 })
            #expect(used.load(as: UInt8.self) == 3)
        }
    }
}
