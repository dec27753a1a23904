import Glibc
import StorageMount
import Testing
import Wire

@testable import StorageService

extension StorageTests {
    @Suite struct OverlayTests {
        private func withTree<Result: Sendable>(
            _ configuration: StorageConfiguration, at mountPoint: String,
            _ body: @escaping @Sendable () throws -> Result
        ) async throws -> Result {
            try await withPrivateMounts {
                let storage = try TestStorage(configuration)
                defer { storage.close() }
                let processor = try TestProcessor(storage, at: mountPoint)
                defer { processor.close() }
                return try body()
            }
        }

        @Test func changesArePrivateAndLast() async throws {
            let directory = try TemporaryDirectory()
            let (lower, mountPoint) = (directory.make("lower"), directory.make("mount"))
            let state = directory.make("state:with,odd\\name")
            mkdir(lower + "/d", 0o750)
            put(lower + "/d/a", "lower")
            put(lower + "/b", "lower")
            let configuration = StorageConfiguration(export: .overlay(lower: lower, stateDirectory: state))
            try await withTree(configuration, at: mountPoint) {
                try check(contents(mountPoint + "/d/a") == "lower", "what is below")
                try check(put(mountPoint + "/d/a", "upper") == 0, "change")
                try check(unlink(mountPoint + "/b") == 0, "removal")
                try check(
                    rename(mountPoint + "/d", mountPoint + "/e") == 0, "rename of a directory from below: \(errno)")
                try check(put(mountPoint + "/c", "new") == 0, "creation")
            }
            #expect(contents(lower + "/d/a") == "lower")
            #expect(contents(lower + "/b") == "lower")
            #expect(contents(lower + "/c") == nil)
            let later = try await withTree(configuration, at: mountPoint) {
                [mountPoint + "/e/a", mountPoint + "/b", mountPoint + "/c"].map(contents)
            }
            #expect(later == ["upper", nil, "new"])
        }

        /// The default of a local rack: the host's own tree, with the state in it.
        @Test func hostTreeHidesTheState() async throws {
            let directory = try TemporaryDirectory()
            let (mountPoint, state) = (directory.make("mount"), directory.make("state"))
            put(state + "/secret", "secret")
            let configuration = StorageConfiguration(export: .overlay(lower: "/", stateDirectory: state))
            let output = try await withTree(configuration, at: mountPoint) { () -> String in
                let inside = mountPoint + directory.path
                var status = stat()
                try check(stat(inside, &status) == 0, "the directory around it: \(errno)")
                try check(errorNumber(stat(inside + "/state", &status)) == ENOENT, "by name")
                try check(contents(inside + "/state/secret") == nil, "what is in it")
                let names = try Child.run(["ls", inside]).split(separator: "\n")
                try check(!names.contains("state") && names.contains("mount"), "listing: \(names)")
                try check(errorNumber(mkdir(inside + "/state", 0o755)) == EEXIST, "its name stays taken")
                try check(errorNumber(rmdir(inside + "/state")) != 0, "removal")
                // Programs of the host run from the tree.
                return try Child.run([
                    "chroot", mountPoint, "/bin/sh", "-c",
                    "echo written >/tmp/lego-overlay-test && cat /tmp/lego-overlay-test",
                ])
            }
            #expect(output == "written\n")
            #expect(access("/tmp/lego-overlay-test", F_OK) != 0)
        }

        /// What the host does below an overlay is seen, whatever the overlay had found there before; what programs did
        /// goes on to hide it. `settled` looks until the processor's kernel has forgotten, at most for some seconds.
        @Test func whatTheHostChangesIsSeen() async throws {
            let directory = try TemporaryDirectory()
            let (lower, mountPoint) = (directory.make("lower"), directory.make("mount"))
            for path in ["d", "d/deep", "kept", "gone"] { mkdir(lower + "/" + path, 0o755) }
            put(lower + "/d/file", "one")
            put(lower + "/d/removed", "one")
            put(lower + "/kept/a", "lower")
            put(lower + "/gone/a", "lower")
            let configuration = StorageConfiguration(
                export: .overlay(lower: lower, stateDirectory: directory.make("state")))
            try await withTree(configuration, at: mountPoint) {
                @Sendable func settled(_ path: String, _ expected: String?, _ what: String) throws {
                    try check(eventually(within: .seconds(20)) { contents(mountPoint + path) == expected }, what)
                }
                let file = mountPoint + "/d/file"
                try check(contents(file) == "one" && contents(mountPoint + "/d/removed") == "one", "before")
                try check(
                    contents(mountPoint + "/d/new") == nil && contents(mountPoint + "/d/deep/x/y") == nil, "absent")
                try check(unlink(mountPoint + "/kept/a") == 0, "removal by a program")
                try check(
                    unlink(mountPoint + "/gone/a") == 0 && rmdir(mountPoint + "/gone") == 0, "removal of a directory")
                try check(mkdir(mountPoint + "/gone", 0o755) == 0, "a directory of the same name")

                put(lower + "/d/new", "new")
                try settled("/d/new", "new", "a file that had not been there")
                put(lower + "/d/other", "two")
                rename(lower + "/d/other", lower + "/d/file")
                try settled("/d/file", "two", "a file that another one was put in the place of")
                unlink(lower + "/d/removed")
                try settled("/d/removed", nil, "a file that was removed")
                mkdir(lower + "/d/deep/x", 0o755)
                put(lower + "/d/deep/x/y", "deep")
                try settled("/d/deep/x/y", "deep", "a file in a directory that had not been there")
                let names = try Child.run(["ls", mountPoint + "/d"]).split(separator: "\n").map(String.init)
                try check(names == ["deep", "file", "new"], "listing: \(names)")

                // A directory in which a program has written, and of which the overlay therefore has one of its own.
                put(mountPoint + "/d/upper", "upper")
                try Child.run(["rm", "-rf", lower + "/d"])
                mkdir(lower + "/d", 0o755)
                put(lower + "/d/again", "again")
                try settled("/d/again", "again", "a file in a directory that was made again")
                try settled("/d/new", nil, "a file that went with the old directory")
                try settled("/d/upper", "upper", "a program's own file in it")

                put(lower + "/kept/a", "again")
                put(lower + "/gone/a", "again")
                try settled("/kept/a", nil, "what a program removed stays removed")
                try settled("/gone/a", nil, "what a program's directory hides stays hidden")
                put(file, "three")
                put(lower + "/d/file", "four")
                try settled("/d/file", "three", "what a program wrote stays as it wrote it")
            }
        }

        /// A file that a program holds open is the old one to it, and the new one to whoever opens it afterwards.
        @Test func whatIsOpenStaysTheSame() async throws {
            let directory = try TemporaryDirectory()
            let (lower, mountPoint) = (directory.make("lower"), directory.make("mount"))
            put(lower + "/file", "one")
            let configuration = StorageConfiguration(
                export: .overlay(lower: lower, stateDirectory: directory.make("state")))
            try await withTree(configuration, at: mountPoint) {
                let held = open(mountPoint + "/file", O_RDONLY)
                try check(held >= 0, "open: \(errno)")
                put(lower + "/other", "two")
                rename(lower + "/other", lower + "/file")
                var bytes = [UInt8](repeating: 0, count: 3)
                try check(read(held, &bytes, 3) == 3 && String(decoding: bytes, as: UTF8.self) == "one", "what is open")
                try check(contents(mountPoint + "/file") == "one", "what others find meanwhile")
                close(held)
                try check(
                    eventually(within: .seconds(20)) { contents(mountPoint + "/file") == "two" }, "after it was closed")
            }
        }

        /// What the component says of such a file, until whoever has it open gives it back.
        @Test func whatIsOpenIsBusy() async throws {
            let directory = try TemporaryDirectory()
            let lower = directory.make("lower")
            put(lower + "/file", "one")
            let configuration = StorageConfiguration(
                export: .overlay(lower: lower, stateDirectory: directory.make("state")))
            try await withPrivateMounts {
                let storage = try TestStorage(configuration)
                defer { storage.close() }
                var client = try BareClient(storage)
                defer { client.close() }
                try check(client.attach(), "attach")
                guard let old = client.find(client.root, "file"), let file = client.open(old.node, O_RDONLY) else {
                    throw CheckFailure(description: "open")
                }
                put(lower + "/other", "another")
                rename(lower + "/other", lower + "/file")
                // As often as it is asked for, until somebody takes it as it is; for a moment it then is so for all.
                for _ in 0..<3 { try check(client.lookUp(client.root, "file") == .system(EBUSY), "while it is open") }
                let found = client.find(client.root, "file", StorageFunction.lookUpOpen)
                try check(found?.node == old.node, "the old one: \(String(describing: found))")
                let references = [ProcessorStorageForget.Item(node: old.node, references: 2)]
                let back = ProcessorStorageForget(items: references, files: [file])
                try check(client.call(StorageFunction.forget, back).status.isOK, "giving back")
                try check(
                    eventually { client.find(client.root, "file")?.attributes.size == 7 }, "after it was closed")
            }
        }

        @Test func stateInUseIsRefused() async throws {
            let directory = try TemporaryDirectory()
            let (lower, state) = (directory.make("lower"), directory.make("state"))
            let configuration = StorageConfiguration(export: .overlay(lower: lower, stateDirectory: state))
            let text = try await withPrivateMounts { () -> String in
                let storage = try TestStorage(configuration)
                defer { storage.close() }
                do {
                    try TestStorage(configuration).close()
                    return "started"
                } catch {
                    return "\(error)"
                }
            }
            #expect(text.hasPrefix(state + " is used by another storage component"), "\(text)")
        }

        @Test func errorsNameWhatIsWrong() async throws {
            let directory = try TemporaryDirectory()
            put(directory.path + "/file", "")
            func failure(_ export: StorageConfiguration.Export) async throws -> String {
                try await withPrivateMounts {
                    do {
                        try TestStorage(StorageConfiguration(export: export)).close()
                        return "started"
                    } catch {
                        return "\(error)"
                    }
                }
            }
            let absent = directory.path + "/absent"
            #expect(
                try await failure(.directory(absent)) == "\(absent) cannot be exported: open: No such file or directory"
            )
            let file = directory.path + "/file"
            #expect(try await failure(.directory(file)) == "\(file) cannot be exported: open: Not a directory")
            let state = directory.make("state")
            #expect(
                try await failure(.overlay(lower: file, stateDirectory: state))
                    == "\(file) cannot be exported: stat: Not a directory")
            let text = try await failure(.overlay(lower: "/", stateDirectory: "/proc/nowhere"))
            #expect(text.hasPrefix("/proc/nowhere cannot hold the tree's private layer: mkdir: "))
        }

        @Test func mountTable() {
            let text = """
                22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
                23 22 0:21 / /proc rw - proc proc rw
                24 22 254:1 / /home\\040of\\011all rw shared:1 - ext4 /dev/vdb rw
                25 22 0:33 /sub /srv rw master:1 - btrfs /dev/vdc rw,subvol=/sub
                26 22 0:25 / /tmp rw - tmpfs tmpfs rw
                27 24 0:26 / /usr rw - tmpfs tmpfs rw
                28 24 254:2 / /usr rw - ext4 /dev/vdd rw
                29 24 254:2 / /var/x rw - ext4 /dev/vdd rw
                30 24 0:26 / /var/x rw - tmpfs tmpfs rw
                31 24 0:27 / /run/user/1000 rw - tmpfs tmpfs rw
                32 24 0:28 / /runs rw - nfs4 host:/runs rw
                33 24 0:29 / /media/phone rw - fuse.mtp phone rw
                a line that is none
                """
            let entries = MountTable.parse(text)
            #expect(entries.count == 12)
            let places = MountTable.withFiles(entries, below: "/").map(\.mountPoint)
            #expect(places == ["/home of\tall", "/runs", "/srv", "/usr", "/var/x"])
            #expect(MountTable.withFiles(entries, below: "/usr").isEmpty)
            #expect(OverlayMount.escaped("/a:b,c\\d") == "/a\\:b\\,c\\\\d")
        }
    }
}
