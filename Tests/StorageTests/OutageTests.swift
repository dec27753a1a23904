import Fabric
import Glibc
import Kernel
import Lite
import StorageMount
import Testing
import Wire

@testable import StorageService

extension StorageTests {
    /// What programs see when the storage component goes away and comes back.
    @Suite struct OutageTests {
        @Test func lostComponentFailsRequestsAndNeverHangsThem() async throws {
            let directory = try TemporaryDirectory()
            let mountPoint = directory.make("mount")
            let export = directory.make("export")
            let errors = try await withPrivateMounts {
                let storage = try TestStorage(StorageConfiguration(export: .directory(export)))
                defer { storage.close() }
                let processor = try TestProcessor(storage, at: mountPoint)
                defer { processor.close() }
                put(mountPoint + "/a", "before")
                let file = open(mountPoint + "/a", O_RDWR | O_CLOEXEC)
                defer { close(file) }
                storage.close()
                processor.useNone()
                // The first waits for its return; those after know better. Each ends, or the test's own deadline does.
                var byte: UInt8 = 0
                var status = stat()
                return [
                    errorNumber(pwrite(file, &byte, 1, 0)), errorNumber(fsync(file)),
                    errorNumber(stat(mountPoint + "/never-seen", &status)), put(mountPoint + "/b", "b"),
                    errorNumber(unlink(mountPoint + "/a")), errorNumber(mkdir(mountPoint + "/d", 0o755)),
                ]
            }
            #expect(errors.allSatisfy { $0 == EIO }, "\(errors)")
        }

        @Test func everythingGoesOnWithTheNextComponent() async throws {
            let directory = try TemporaryDirectory()
            let mountPoint = directory.make("mount")
            let export = directory.make("export")
            try await withPrivateMounts {
                var storage = try TestStorage(StorageConfiguration(export: .directory(export)))
                defer { storage.close() }
                let processor = try TestProcessor(storage, at: mountPoint)
                defer { processor.close() }
                mkdir(mountPoint + "/d", 0o755)
                put(mountPoint + "/d/a", "first")
                let file = open(mountPoint + "/d/a", O_RDWR | O_CLOEXEC)
                let here = open(mountPoint + "/d", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
                let gone = open(mountPoint + "/gone", O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
                defer { for descriptor in [file, here, gone] { close(descriptor) } }
                unlink(mountPoint + "/gone")
                rename(mountPoint + "/d", mountPoint + "/e")
                // An old one is closed only now: the new one is not confused by what the old one still knows.
                let old = storage
                processor.useNone()
                storage = try TestStorage(StorageConfiguration(export: .directory(export)))
                try processor.use(storage)
                old.close()

                // An open file, a directory that is some process's own, and a path.
                try check(pwrite(file, "SECOND", 6, 0) == 6, "write to an open file: \(errno)")
                try check(contents(mountPoint + "/e/a") == "SECOND", "the path after it")
                try check(contents(export + "/e/a") == "SECOND", "the export")
                let relative = openat(here, "b", O_CREAT | O_WRONLY | O_CLOEXEC, 0o644)
                try check(relative >= 0, "creation relative to an open directory: \(errno)")
                close(relative)
                try check(access(export + "/e/b", F_OK) == 0, "the created file")
                // What had no name is lost with the component, and says so.
                var byte: UInt8 = 0
                try check(pwrite(gone, &byte, 1, 0) < 0 && errno == ESTALE, "a file without a name: \(errno)")
            }
        }

        /// Programs write while the component is replaced again and again: what a write acknowledged is there, in its
        /// place.
        @Test func writesSurviveRestarts() async throws {
            let directory = try TemporaryDirectory()
            let mountPoint = directory.make("mount")
            let export = directory.make("export")
            let output = try await withPrivateMounts { () -> String in
                var storage = try TestStorage(StorageConfiguration(export: .directory(export)))
                defer { storage.close() }
                let processor = try TestProcessor(storage, at: mountPoint)
                defer { processor.close() }
                let start = TestStart()
                let writer = try KernelThread(name: "writer") {
                    start.finish(Result { try Child.run(["python3", script("writer.py"), mountPoint]) })
                }
                for _ in 0..<5 {
                    if !start.waitForFile(mountPoint + "/progress") { break }
                    processor.useNone()
                    storage.close()
                    storage = try TestStorage(StorageConfiguration(export: .directory(export)))
                    try processor.use(storage)
                }
                put(mountPoint + "/stop", "")
                writer.join()
                return try start.result()
            }
            #expect(output == "all there\n")
        }

        @Test func mountsBeforeTheComponentIsThere() async throws {
            let directory = try TemporaryDirectory()
            let mountPoint = directory.make("mount")
            let export = directory.make("export")
            put(export + "/a", "here")
            let text = try await withPrivateMounts {
                let processor = try TestProcessor(nil, at: mountPoint)
                defer { processor.close() }
                let storage = try TestStorage(StorageConfiguration(export: .directory(export)))
                defer { storage.close() }
                try processor.use(storage)
                return contents(mountPoint + "/a")
            }
            #expect(text == "here")
        }

        /// A component that answers its root and its watch, and nothing else for a while.
        private func stubborn(answersPing: Bool, after delay: Duration) throws -> RackNode {
            let lite = LiteConfiguration(
                name: "stubborn", listen: FabricAddress(host: "127.0.0.1", port: 0), poolBytes: 1 << 20)
            let node = try RackNode(device: RackDevice(), configuration: lite)
            var attributes = StorageAttributes()
            attributes.mode = S_IFDIR | 0o755
            attributes.links = 2
            let known = attributes
            let root = StorageEntry(node: 7, attributes: known)
            node.register(StorageFunction.attach, ProcessorStorageAttach.self, StorageEntry.self) { _, _ in (.ok, root)
            }
            if answersPing {
                node.register(StorageFunction.ping, requestBytes_max: 64, responseBytes_max: 64, on: .poller) {
                    _, _, _ in
                    CallResult(status: .ok)
                }
            }
            let word = Word()
            node.register(StorageFunction.getAttributes, ProcessorStorageNode.self, StorageAttributes.self) { _, _ in
                let end = Deadline.after(delay)
                while !end.hasPassed { Futex.wait(word.address, while: 0, until: end) }
                return (.ok, known)
            }
            try node.start()
            return node
        }

        private func statOfRoot(answersPing: Bool, after delay: Duration) async throws -> Int32 {
            let directory = try TemporaryDirectory()
            let mountPoint = directory.make("mount")
            return try await withPrivateMounts {
                let storage = try stubborn(answersPing: answersPing, after: delay)
                defer { storage.close() }
                let processor = try TestProcessor(nil, at: mountPoint)
                defer { processor.close() }
                try processor.use(storage.address)
                var status = stat()
                return errorNumber(stat(mountPoint, &status))
            }
        }

        @Test func slowComponentIsWaitedFor() async throws {
            #expect(try await statOfRoot(answersPing: true, after: .seconds(7)) == 0)
        }

        @Test func silentComponentIsGivenUp() async throws {
            #expect(try await statOfRoot(answersPing: false, after: .seconds(15)) == EIO)
        }

        @Test func unmountLeavesNothing() async throws {
            let directory = try TemporaryDirectory()
            let mountPoint = directory.make("mount")
            let export = directory.make("export")
            // Once before the count: the first use of a library keeps descriptors of its own.
            func cycle() async throws -> (count: Int, error: Int32, mounts: Int) {
                try await withPrivateMounts {
                    let storage = try TestStorage(StorageConfiguration(export: .directory(export)))
                    let processor = try TestProcessor(storage, at: mountPoint)
                    put(mountPoint + "/a", "a")
                    let held = open(mountPoint + "/a", O_RDWR | O_CLOEXEC)
                    defer { close(held) }
                    processor.close()
                    storage.close()
                    var byte: UInt8 = 0
                    let error = errorNumber(pread(held, &byte, 1, 0))
                    let mounts = MountTable.current().filter { $0.mountPoint == mountPoint }.count
                    return (try Child.run(["ls", "/proc/\(getpid())/fd"]).split(separator: "\n").count, error, mounts)
                }
            }
            _ = try await cycle()
            let first = try await cycle()
            var second = try await cycle()
            // What another thread closes may still be on its way: a leak grows with every cycle, a late close does not.
            for _ in 0..<5 where second.count > first.count { second = try await cycle() }
            #expect(second.count <= first.count)
            #expect(second.error == ENOTCONN || second.error == ECONNABORTED || second.error == EIO)
            #expect(second.mounts == 0)
        }
    }
}

struct CheckFailure: Error, CustomStringConvertible {
    var description: String
}

/// For bodies that run on a thread of their own, where an expectation would not find its test.
func check(_ condition: Bool, _ what: @autoclosure () -> String) throws {
    if !condition { throw CheckFailure(description: what()) }
}

/// A futex word that never changes: to wait for a time.
private final class Word: Sendable {
    nonisolated(unsafe) let address: UnsafeMutablePointer<UInt32>
    init() {
        address = .allocate(capacity: 1)
        address.initialize(to: 0)
    }
    deinit { address.deallocate() }
}
