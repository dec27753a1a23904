import Fabric
import Glibc
import Kernel
import Lite
import Testing
import Wire

@testable import StorageService

extension StorageTests {
    /// A peer that speaks the protocol and means harm.
    @Suite struct HostileClientTests {
        private func withClient(
            _ body: @escaping @Sendable (BareClient, TestStorage, _ export: String) throws -> Void
        ) async throws {
            let directory = try TemporaryDirectory()
            let export = directory.make("export")
            put(directory.path + "/outside", "outside")
            put(export + "/a", "inside")
            symlink("../outside", export + "/link")
            try await withPrivateMounts {
                let storage = try TestStorage(StorageConfiguration(export: .directory(export)))
                defer { storage.close() }
                var client = try BareClient(storage)
                defer { client.close() }
                // Before it has attached, nothing is answered.
                let stranger = client
                try check(stranger.lookUp(1, "a") == .system(ESTALE), "before attach")
                try check(
                    stranger.call(StorageFunction.attach, ProcessorStorageAttach(version: 99)).status
                        == .system(EPROTO), "version")
                try check(client.attach(), "attach")
                try body(client, storage, export)
            }
        }

        @Test func namesThatAreNone() async throws {
            try await withClient { client, _, _ in
                for name in ["", ".", "..", "a/b", "/", "../outside", "a/../../outside", "a\0b", "\0"] {
                    try check(client.lookUp(client.root, name) == .system(EINVAL), "\(name.debugDescription)")
                    let made = client.name(name) {
                        client.call(
                            StorageFunction.makeNode,
                            ProcessorStorageMake(
                                parent: client.root, mode: S_IFDIR | 0o755, user: 0, group: 0, name: $0)
                        ).status
                    }
                    try check(made == .system(EINVAL), "making \(name.debugDescription): \(made)")
                }
                try check(client.lookUp(client.root, String(repeating: "n", count: 256)) == .malformed, "a long name")
                // A link is a node of its own: it is not followed, opened or entered.
                let link = client.find(client.root, "link")
                try check(link != nil, "the link itself")
                try check(client.open(link?.node ?? 0, O_RDONLY) == nil, "opening the link")
                try check(client.lookUp(link?.node ?? 0, "outside") == .system(ENOTDIR), "through the link")
            }
        }

        @Test func handlesThatWereNeverGiven() async throws {
            try await withClient { client, _, _ in
                let file = client.find(client.root, "a")?.node ?? 0
                var handles = [0, 1, UInt64.max, client.root &+ 1, client.root ^ (1 << 32), file ^ (1 << 63), 1 << 32]
                handles.removeAll { $0 == file || $0 == client.root }
                for handle in handles {
                    let node = ProcessorStorageNode(node: handle)
                    for function in [
                        StorageFunction.getAttributes, StorageFunction.readLink, StorageFunction.listExtended,
                        StorageFunction.fileSystemStatus,
                    ] { try check(client.call(function, node).status == .system(ESTALE), "node \(handle)") }
                    let transfer = ProcessorStorageTransfer(file: handle, offset: 0, poolOffset: 0, count: 1)
                    for function in [StorageFunction.read, StorageFunction.write] {
                        try check(client.call(function, transfer).status == .system(ESTALE), "file \(handle)")
                    }
                    try check(client.lookUp(handle, "a") == .system(ESTALE), "parent \(handle)")
                    let names = ["", "a", ".."].map { ProcessorStorageNames.Item(parent: handle, name: Array($0.utf8)) }
                    let states = client.call(StorageFunction.review, ProcessorStorageNames(items: names))
                    try check(states.status == .ok, "review of \(handle)")
                    _ = client.call(StorageFunction.forget, ProcessorStorageForget(items: [], files: [handle, handle]))
                    let item = ProcessorStorageForget.Item(node: handle, references: .max)
                    _ = client.call(StorageFunction.forget, ProcessorStorageForget(items: [item]))
                }
                // References that were never counted free nothing that is needed.
                let item = ProcessorStorageForget.Item(node: client.root, references: .max)
                _ = client.call(StorageFunction.forget, ProcessorStorageForget(items: [item, item]))
                try check(client.find(client.root, "a")?.node == file, "after all that")
                let open = client.open(file, O_RDWR)
                try check(open != nil, "open")
                let given = ProcessorStorageForget.Item(node: file, references: 1000)
                _ = client.call(StorageFunction.forget, ProcessorStorageForget(items: [given]))
                let read = ProcessorStorageTransfer(file: open ?? 0, offset: 0, poolOffset: 0, count: 6)
                try check(client.call(StorageFunction.read, read).status == .ok, "an open file whose node is forgotten")
                try check(client.node.pool.prefix(6).elementsEqual("inside".utf8), "its bytes")
                _ = client.call(StorageFunction.forget, ProcessorStorageForget(items: [], files: [open ?? 0]))
                try check(client.call(StorageFunction.read, read).status == .system(ESTALE), "after its release")
            }
        }

        @Test func rangesBeyondTheEnd() async throws {
            try await withClient { client, _, export in
                let file = client.open(client.find(client.root, "a")?.node ?? 0, O_RDWR) ?? 0
                let pool = UInt64(client.node.pool.count)
                for (offset, poolOffset, count) in [
                    (0, pool, 1), (0, pool - 1, 2), (0, UInt64.max, 6), (0, UInt64.max - 3, 6),
                ] as [(UInt64, UInt64, UInt32)] {
                    let transfer = ProcessorStorageTransfer(
                        file: file, offset: offset, poolOffset: poolOffset, count: count)
                    let written = client.call(StorageFunction.write, transfer).status
                    try check(!written.isOK, "write from \(poolOffset)")
                    let read = client.call(StorageFunction.read, transfer).status
                    try check(!read.isOK, "read to \(poolOffset)")
                }
                for (offset, count) in [(UInt64.max, 1), (UInt64(Int64.max), 1), (0, UInt32.max), (0, 1 << 20 + 1)]
                    as [(UInt64, UInt32)]
                {
                    let transfer = ProcessorStorageTransfer(file: file, offset: offset, poolOffset: 0, count: count)
                    try check(client.call(StorageFunction.read, transfer).status == .malformed, "\(offset) \(count)")
                }
                try check(contents(export + "/a") == "inside", "the file is as it was")
            }
        }

        /// Whatever the bytes, the answer is a status, and the component serves the next request.
        @Test func noise() async throws {
            try await withClient { client, _, _ in
                var generator = SystemRandomNumberGenerator()
                for function in UInt16(0x0501)...0x0523 where function != StorageFunction.unlink.rawValue {
                    for length in [0, 1, 7, 8, 12, 20, 40, 64, 200] {
                        var bytes = (0..<length).map { _ in UInt8.random(in: 0...255, using: &generator) }
                        // Half of them begin with a handle that means something.
                        if length >= 8, Bool.random(using: &generator) {
                            withUnsafeBytes(of: client.root.littleEndian) { bytes.replaceSubrange(0..<8, with: $0) }
                        }
                        let status = client.call(FunctionID(rawValue: function), bytes).status
                        try check(status != .peerLost && status != .timedOut, "function \(function): \(status)")
                    }
                }
                try check(client.find(client.root, "a") != nil, "after the noise")
            }
        }

        /// A client that goes away takes everything with it.
        @Test func lossReleasesEverything() async throws {
            try await withClient { client, _, export in
                for index in 0..<50 { put(export + "/f\(index)", "x") }
                func held() throws -> Int {
                    // Descriptors of other threads come and go meanwhile, which ls(1) would take for an error.
                    try Child.run(["sh", "-c", "ls -l /proc/\(getpid())/fd 2>/dev/null; true"])
                        .split(separator: "\n").count { $0.contains(export + "/f") }
                }
                for index in 0..<50 {
                    let node = client.find(client.root, "f\(index)")?.node ?? 0
                    try check(client.open(node, O_RDWR) != nil, "open")
                }
                try check(try held() == 100, "each holds a node and a file")
                client.node.disconnect(client.peer)
                let deadline = Deadline.after(.seconds(20))
                while try held() > 0, !deadline.hasPassed {}
                try check(try held() == 0, "what the client held is closed")
            }
        }
    }
}
