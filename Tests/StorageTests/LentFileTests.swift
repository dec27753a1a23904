import Glibc
import Testing
import Wire

@testable import StorageMount
@testable import StorageService

extension StorageTests {
    /// Files of a storage component on the processor's own host, which are read and written where they lie.
    @Suite struct LentFileTests {
        private static let block = 5000

        /// Bytes by which every place of every file is known.
        private static func pattern(_ file: Int, _ index: Int) -> [UInt8] {
            (0..<block).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ index &* 31 &+ file) }
        }

        private static func write(_ descriptor: Int32, _ file: Int, _ blocks: Range<Int>) throws {
            for index in blocks {
                let bytes = pattern(file, index)
                try check(pwrite(descriptor, bytes, block, off_t(index * block)) == block, "write \(index): \(errno)")
            }
        }

        /// Whether the file holds these blocks. Read past the kernel's cache.
        private static func holds(_ path: String, _ file: Int, _ blocks: Range<Int>) -> Bool {
            let descriptor = open(path, O_RDONLY | O_CLOEXEC)
            defer { close(descriptor) }
            posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED)
            var bytes = [UInt8](repeating: 0, count: block)
            return blocks.allSatisfy { index in
                pread(descriptor, &bytes, block, off_t(index * block)) == block && bytes == pattern(file, index)
            }
        }

        private func withMount(_ body: @escaping @Sendable (TestProcessor, TestStorage, String, String) throws -> Void)
            async throws
        {
            let directory = try TemporaryDirectory()
            let (export, mountPoint) = (directory.make("export"), directory.make("mount"))
            try await withPrivateMounts {
                let storage = try TestStorage(StorageConfiguration(export: .directory(export)))
                defer { storage.close() }
                let processor = try TestProcessor(storage, at: mountPoint)
                defer { processor.close() }
                try body(processor, storage, export, mountPoint)
            }
        }

        /// An open file of ten blocks that is lent, and the number of transfers so far that went to it.
        private func withLentFile(
            _ body: @escaping @Sendable (TestProcessor, TestStorage, String, Int32, Int) throws -> Void
        ) async throws {
            try await withMount { processor, storage, export, mountPoint in
                let file = open(mountPoint + "/a", O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
                defer { close(file) }
                try Self.write(file, 1, 0..<10)
                try check(processor.mount.lentFiles == 1, "not borrowed")
                try body(processor, storage, export, file, processor.mount.lentTransfers.load(ordering: .relaxed))
            }
        }

        @Test func readAndWrittenWhereTheyLie() async throws {
            try await withMount { processor, _, export, mountPoint in
                let mount = processor.mount
                let file = open(mountPoint + "/a", O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
                // Of a block that ends within a page the kernel makes two requests.
                try Self.write(file, 1, 0..<1)
                try check(
                    mount.lentTransfers.load(ordering: .relaxed) == 0 && mount.lentFiles == 0, "borrowed too early")
                try Self.write(file, 1, 1..<40)
                try check(mount.lentFiles == 1, "not borrowed")
                try check(mount.lentTransfers.load(ordering: .relaxed) >= 30, "not used")
                try check(Self.holds(mountPoint + "/a", 1, 0..<40), "at the mount")
                try check(Self.holds(export + "/a", 1, 0..<40), "in the export")
                // A change in the export is seen at the next open; the size, too, is the component's to tell, when the
                // kernel asks for it again.
                try check(truncate(export + "/a", 100_000) == 0 && fsync(file) == 0, "truncate")
                try check(Self.holds(mountPoint + "/a", 1, 0..<20), "after truncate")
                let reader = open(mountPoint + "/a", O_RDONLY | O_CLOEXEC)
                try check(eventually { lseek(reader, 0, SEEK_END) == 100_000 }, "its size")
                close(reader)
                // The name goes, the file stays as long as it is open.
                try check(unlink(mountPoint + "/a") == 0, "unlink")
                try Self.write(file, 1, 40..<50)
                close(file)
                try check(eventually { mount.lentFiles == 0 }, "kept after the close")
            }
        }

        @Test func noMoreThanMayBe() async throws {
            try await withMount { processor, _, export, mountPoint in
                let files = (0..<300).map { open(mountPoint + "/f\($0)", O_RDWR | O_CREAT | O_CLOEXEC, 0o644) }
                for (number, file) in files.enumerated() { try Self.write(file, number, 0..<6) }
                try check(processor.mount.lentFiles == 256, "\(processor.mount.lentFiles) lent")
                for file in files { close(file) }
                for number in 0..<300 { try check(Self.holds(export + "/f\(number)", number, 0..<6), "file \(number)") }
                try check(eventually { processor.mount.lentFiles == 0 }, "kept after the close")
            }
        }

        /// What a lost component lent is used no more, whatever can still be reached through it.
        @Test func aLostComponentLendsNoMore() async throws {
            try await withLentFile { processor, storage, export, file, before in
                let mount = processor.mount
                processor.useNone()
                storage.close()
                // Until the loss is seen, a write goes where the file lies.
                try check(eventually { mount.link.current?.peer.isConnected != true }, "still connected")
                let bytes = Self.pattern(1, 10)
                try check(pwrite(file, bytes, bytes.count, 50_000) < 0 && errno == EIO, "written without a component")
                let second = try TestStorage(StorageConfiguration(export: .directory(export)))
                defer { second.close() }
                try processor.use(second)
                try Self.write(file, 1, 10..<20)
                try check(mount.lentTransfers.load(ordering: .relaxed) == before, "used the old descriptor")
                try check(Self.holds(export + "/a", 1, 0..<20), "contents")
            }
        }

        /// A modelled link takes the time that the model says.
        @Test func notOverAModelledLink() async throws {
            try await withLentFile { processor, _, export, file, before in
                let mount = processor.mount
                try processor.setModel(LinkModel("edr"))
                try Self.write(file, 1, 10..<20)
                try check(mount.lentTransfers.load(ordering: .relaxed) == before, "past the model")
                try processor.setModel(nil)
                try Self.write(file, 1, 20..<30)
                try check(mount.lentTransfers.load(ordering: .relaxed) > before, "not used again")
                try check(Self.holds(export + "/a", 1, 0..<30), "contents")
            }
        }

        @Test func setUserIDIsCleared() async throws {
            try await withMount { processor, _, export, mountPoint in
                chmod(export, 0o777)
                let program = """
                    import os, stat, sys
                    os.setgroups([]); os.setgid(65534); os.setuid(65534)
                    file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o755)
                    for index in range(10): os.pwrite(file, b'x' * 5000, index * 5000)
                    os.chmod(sys.argv[1], 0o6755)
                    assert os.stat(sys.argv[1]).st_mode & 0o7777 == 0o6755
                    os.pwrite(file, b'y', 3)
                    print('%o' % (os.stat(sys.argv[1]).st_mode & 0o7777))
                    """
                let text = try Child.run(["python3", "-c", program, mountPoint + "/a"])
                try check(processor.mount.lentTransfers.load(ordering: .relaxed) > 5, "not borrowed")
                try check(text == "755\n", text)
            }
        }
    }
}
