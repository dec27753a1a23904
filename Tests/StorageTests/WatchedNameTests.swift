import Glibc
import Kernel
import Testing
import Wire

@testable import StorageMount
@testable import StorageService

extension StorageTests {
    /// Names that the kernel may use for long, because they are looked at for it.
    @Suite struct WatchedNameTests {
        /// What the tests ask for again and again: a file, a link, a directory, and what is not there.
        private static let names = ["/d/file", "/d/link", "/d/inner", "/d/none"]

        private static func state(_ path: String) -> String {
            var status = stat()
            if lstat(path, &status) < 0 { return "error \(errno)" }
            let changed = "\(status.st_mtim.tv_sec).\(status.st_mtim.tv_nsec)"
            return "\(String(status.st_mode, radix: 8)) \(status.st_size) \(changed)"
        }

        private static func look(_ root: String) -> [String] { names.map { state(root + $0) } }

        /// With all of them watched: requests of the kernel while they are looked at once more.
        private static func watchAll(_ processor: TestProcessor, _ mountPoint: String) -> Int {
            for _ in 0..<3 {
                processor.mount.refresh()
                _ = look(mountPoint)
            }
            processor.mount.refresh()
            let before = processor.mount.requestCount.load(ordering: .relaxed)
            _ = look(mountPoint)
            return processor.mount.requestCount.load(ordering: .relaxed) - before
        }

        private static func fill(_ export: String) {
            mkdir(export + "/d", 0o755)
            put(export + "/d/file", "one")
            symlink("file", export + "/d/link")
            mkdir(export + "/d/inner", 0o755)
        }

        /// A tree that is exported as it is, or below an overlay.
        private static func withMount(
            overlay: Bool = false,
            _ body: @escaping @Sendable (TestProcessor, TestStorage, String, String) throws -> Void
        ) async throws {
            let directory = try TemporaryDirectory()
            let (export, mountPoint) = (directory.make("export"), directory.make("mount"))
            let state = directory.make("state")
            fill(export)
            try await withPrivateMounts {
                let storage = try TestStorage(
                    StorageConfiguration(
                        export: overlay ? .overlay(lower: export, stateDirectory: state) : .directory(export)))
                defer { storage.close() }
                let processor = try TestProcessor(storage, at: mountPoint)
                defer { processor.close() }
                try body(processor, storage, mountPoint, export)
            }
        }

        /// Whatever changed, and that it is another thing then.
        private static let changes: [(name: String, make: @Sendable (String) -> Void)] = [
            ("longer contents", { put($0 + "/d/file", "longer") }),
            ("permissions", { chmod($0 + "/d/file", 0o600) }),
            (
                "another file",
                {
                    put($0 + "/d/new", "another file")
                    rename($0 + "/d/new", $0 + "/d/file")
                }
            ),
            (
                "another target",
                {
                    unlink($0 + "/d/link")
                    symlink("a longer target", $0 + "/d/link")
                }
            ),
            ("a file that was not there", { put($0 + "/d/none", "now it is") }),
            ("no file any more", { unlink($0 + "/d/file") }),
            (
                "another directory",
                {
                    rename($0 + "/d", $0 + "/old")
                    fill($0)
                }
            ),
        ]

        @Test(arguments: [false, true]) func whatIsWatchedCostsNoRequest(overlay: Bool) async throws {
            try await Self.withMount(overlay: overlay) { processor, _, mountPoint, export in
                let requests = Self.watchAll(processor, mountPoint)
                try check(requests == 0, "\(requests) requests")
                // It goes on so for those that stay as they are. Where the mount's thread finds the change first, the notice
                // that it gives and the one that is given again cost twice: it does so every 900 ms, and not each time.
                var counts: [Int] = []
                for round in 0..<5 where counts.last.map({ $0 > 2 }) ?? true {
                    _ = Self.watchAll(processor, mountPoint)
                    chmod(export + "/d/file", round % 2 == 0 ? 0o640 : 0o600)
                    processor.mount.refresh()
                    let before = processor.mount.requestCount.load(ordering: .relaxed)
                    try check(Self.look(mountPoint) == Self.look(export), "what the mount shows")
                    counts.append(processor.mount.requestCount.load(ordering: .relaxed) - before)
                    try check(counts.last! > 0, "no request after a change")
                }
                try check(counts.last! <= 2, "\(counts) requests after one change")
            }
        }

        /// Whoever starts a program after a change has it find the change.
        @Test(arguments: [false, true]) func aChangeIsSeenAfterARefresh(overlay: Bool) async throws {
            try await Self.withMount(overlay: overlay) { processor, _, mountPoint, export in
                for round in 0..<5 {
                    for (name, make) in Self.changes {
                        _ = Self.watchAll(processor, mountPoint)
                        let before = Self.look(mountPoint)
                        // Its file is closed, and given back to the component some time later.
                        _ = contents(mountPoint + "/d/file")
                        make(export)
                        processor.mount.refresh()
                        let after = Self.look(mountPoint)
                        try check(
                            after == Self.look(export) && after != before, "\(round) \(name): \(before), \(after)")
                        let text = contents(mountPoint + "/d/file")
                        try check(text == contents(export + "/d/file"), "\(round) \(name): \(text ?? "nothing")")
                    }
                    try Child.run(["rm", "-rf", export + "/d", export + "/old"])
                    Self.fill(export)
                }
            }
        }

        /// And a program that runs finds it soon, although the kernel was told that what it knows is good for minutes.
        @Test(arguments: [false, true]) func aChangeIsSeenWithoutOne(overlay: Bool) async throws {
            try await Self.withMount(overlay: overlay) { processor, _, mountPoint, export in
                for (name, make) in Self.changes {
                    let requests = Self.watchAll(processor, mountPoint)
                    try check(requests == 0, "\(name): \(requests) requests")
                    make(export)
                    let expected = Self.look(export)
                    try check(eventually { Self.look(mountPoint) == expected }, "\(name): \(Self.look(mountPoint))")
                }
            }
        }

        /// What was watched at a component that is lost is asked for at the next one.
        @Test func nothingOutlastsTheComponent() async throws {
            try await Self.withMount { processor, storage, mountPoint, export in
                _ = Self.watchAll(processor, mountPoint)
                processor.useNone()
                storage.close()
                put(export + "/d/file", "while it was away")
                unlink(export + "/d/link")
                let next = try TestStorage(StorageConfiguration(export: .directory(export)))
                defer { next.close() }
                try processor.use(next)
                processor.mount.refresh()
                try check(Self.look(mountPoint) == Self.look(export), "\(Self.look(mountPoint))")
                let requests = Self.watchAll(processor, mountPoint)
                try check(requests == 0, "\(requests) requests")
            }
        }

        /// Those that are looked up once, as by whoever walks through a tree, take the place of none that is watched.
        @Test func aWalkThroughATreeWatchesNothing() {
            var table = WatchedTable()
            let attributes = StorageAttributes()
            func note(_ name: String, until: Deadline = .never) -> Bool {
                name.withCString {
                    table.note(WatchedTable.Key(parent: 1, name: $0), inode: 2, attributes, until: until).isWatched
                }
            }
            for index in 0..<100 { #expect(!note("kept \(index)")) }
            let watched = (0..<100).filter { note("kept \($0)") }
            #expect(watched.count > 80 && table.watched == watched.count)
            for index in 0..<10_000 { #expect(!note("walked \(index)")) }
            #expect(table.watched == watched.count)
            var slot = 0
            var names: Set<String> = []
            while let batch = table.next(&slot, 64) {
                #expect(batch.count <= 64)
                for told in batch { names.insert(String(decoding: told.name, as: UTF8.self)) }
            }
            #expect(names == Set(watched.map { "kept \($0)" }))
            // What the kernel uses no more is watched no more.
            for index in watched { #expect(note("kept \(index)", until: Deadline(nanoseconds: 0))) }
            slot = 0
            #expect(table.next(&slot, 64) == nil && table.watched == 0)
        }
    }
}
