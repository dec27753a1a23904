import CLinux
import Glibc
import StorageMount
import Synchronization
import Testing

@testable import StorageService

extension StorageTests {
    /// How often programs make the kernel ask, which is what the tree costs them.
    @Suite struct RequestTests {
        /// Requests of the kernel while `body` runs.
        private static func requests(_ processor: TestProcessor, _ body: () throws -> Void) rethrows -> Int {
            let before = processor.mount.requestCount.load(ordering: .relaxed)
            try body()
            return processor.mount.requestCount.load(ordering: .relaxed) - before
        }

        private func measure(_ body: @escaping @Sendable (TestProcessor, String, String) throws -> Int) async throws
            -> Int
        {
            let directory = try TemporaryDirectory()
            let (export, mountPoint) = (directory.make("export"), directory.make("mount"))
            return try await withPrivateMounts {
                let storage = try TestStorage(StorageConfiguration(export: .directory(export)))
                defer { storage.close() }
                let processor = try TestProcessor(storage, at: mountPoint)
                defer { processor.close() }
                return try body(processor, mountPoint, export)
            }
        }

        /// Standard I/O takes the size of its buffers from the file.
        @Test func standardOutputComesInLargerPieces() async throws {
            let lines = 20_000
            let line = String(repeating: "x", count: 99) + "\n"
            let count = try await measure { processor, mountPoint, export in
                let path = mountPoint + "/lines"
                var status = stat()
                let count = try Self.requests(processor) {
                    guard let file = fopen(path, "w") else { throw CheckFailure(description: "fopen: \(errno)") }
                    for _ in 0..<lines { fputs(line, file) }
                    try check(fclose(file) == 0, "fclose: \(errno)")
                }
                try check(stat(path, &status) == 0 && status.st_blksize == 64 << 10, "\(status.st_blksize)")
                try check(status.st_size == off_t(lines * line.utf8.count), "\(status.st_size) bytes")
                // What lists a directory takes its own.
                try check(stat(mountPoint, &status) == 0 && status.st_blksize < 64 << 10, "\(status.st_blksize)")
                return count
            }
            // 245 writes of 8 KiB, the most that glibc takes, and what it takes to make and close the file; 489 of 4 KiB.
            #expect(count >= 245 && count < 300, "\(count) requests")
        }

        /// A write is one request: the kernel does not ask for the file's capabilities before each.
        @Test func aWriteIsOneRequest() async throws {
            let writes = 500
            let count = try await measure { processor, mountPoint, export in
                let file = open(mountPoint + "/a", O_WRONLY | O_CREAT | O_CLOEXEC, 0o644)
                defer { close(file) }
                let block = [UInt8](repeating: 7, count: 4096)
                return try Self.requests(processor) {
                    for index in 0..<writes {
                        let count = pwrite(file, block, block.count, off_t(index * block.count))
                        try check(count == block.count, "write \(index): \(errno)")
                    }
                }
            }
            #expect(count >= writes && count < writes + writes / 10, "\(count) requests for \(writes) writes")
        }

        /// Whoever writes to a file or truncates it takes its capabilities away, root too.
        @Test(arguments: [false, true]) func aChangeTakesCapabilitiesAway(isTruncated: Bool) async throws {
            let name = "security.capability"
            let left = try await measure { processor, mountPoint, export in
                put(export + "/a", "text")
                let native = open(export + "/a", O_RDONLY | O_CLOEXEC)
                defer { close(native) }
                // cap_net_raw, permitted and effective, in the second version of the format (linux/capability.h).
                var value: [UInt32] = [0x0200_0001, 1 << 13, 0, 0, 0]
                let set = lego_attribute_set(native, name, &value, value.count * 4, 0)
                try check(set == 0, "the export keeps no capabilities: \(set)")
                let path = mountPoint + "/a"
                let error = isTruncated ? errorNumber(truncate(path, 2)) : put(path, "x", flags: 0)
                try check(error == 0, "change: \(error)")
                return lego_attribute_get(native, name, &value, value.count * 4)
            }
            #expect(left == -Int(ENODATA))
        }
    }
}
