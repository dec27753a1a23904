import Glibc
import StorageMount
import Testing

@testable import StorageService

extension StorageTests {
    /// Several processors, and what the export's own file system shows.
    @Suite struct CoherenceTests {
        @Test func closeToOpen() async throws {
            let directory = try TemporaryDirectory()
            let (left, right) = (directory.make("left"), directory.make("right"))
            let export = directory.make("export")
            try await withPrivateMounts {
                let storage = try TestStorage(StorageConfiguration(export: .directory(export)))
                defer { storage.close() }
                let first = try TestProcessor(storage, at: left)
                defer { first.close() }
                let second = try TestProcessor(storage, at: right)
                defer { second.close() }
                put(left + "/a", "one")
                for round in 0..<20 {
                    // The same length each time: only the times tell that the data changed.
                    let text = "round\(round % 10)"
                    let (writer, reader) = round % 2 == 0 ? (left, right) : (right, left)
                    put(writer + "/a", text)
                    try check(
                        contents(reader + "/a") == text, "round \(round): \(contents(reader + "/a") ?? "nothing")")
                    try check(contents(writer + "/a") == text, "round \(round) at the writer")
                }
                // Both append at once, through descriptors that know nothing of each other.
                let files = [left, right].map { open($0 + "/log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o644) }
                for _ in 0..<50 { for file in files { try check(write(file, "line\n", 5) == 5, "append") } }
                for file in files { close(file) }
                try check(contents(export + "/log")?.split(separator: "\n").count == 100, "lines of both")
            }
        }

        @Test func renameAndUnlinkByAnotherProcessor() async throws {
            let directory = try TemporaryDirectory()
            let (left, right) = (directory.make("left"), directory.make("right"))
            let export = directory.make("export")
            try await withPrivateMounts {
                let storage = try TestStorage(StorageConfiguration(export: .directory(export)))
                defer { storage.close() }
                let first = try TestProcessor(storage, at: left)
                defer { first.close() }
                let second = try TestProcessor(storage, at: right)
                defer { second.close() }
                mkdir(left + "/d", 0o755)
                put(left + "/d/a", "a")
                try check(contents(right + "/d/a") == "a", "seen by the other")
                // Whoever knows the old name finds no file or the right one, never another's data.
                rename(left + "/d/a", left + "/d/b")
                put(left + "/d/a", "new")
                try check(contents(right + "/d/b") == "a", "under the new name")
                let again = contents(right + "/d/a")
                try check(again == "new" || again == "a", "under the old name: \(again ?? "nothing")")
                let file = open(right + "/d/b", O_RDONLY | O_CLOEXEC)
                defer { close(file) }
                unlink(left + "/d/b")
                var byte: UInt8 = 0
                try check(pread(file, &byte, 1, 0) == 1 && byte == UInt8(ascii: "a"), "unlinked by the other: \(errno)")
            }
        }

        @Test func readOnlyComponentRefusesChanges() async throws {
            let directory = try TemporaryDirectory()
            let mountPoint = directory.make("mount")
            let export = directory.make("export")
            put(export + "/a", "as it was")
            let (errors, text) = try await withPrivateMounts { () -> ([Int32], String?) in
                var configuration = StorageConfiguration(export: .directory(export))
                configuration.isReadOnly = true
                let storage = try TestStorage(configuration)
                defer { storage.close() }
                let processor = try TestProcessor(storage, at: mountPoint)
                defer { processor.close() }
                let errors = [
                    put(mountPoint + "/a", "x"), put(mountPoint + "/b", "x"), put(mountPoint + "/a", "x", flags: 0),
                    errorNumber(unlink(mountPoint + "/a")), errorNumber(mkdir(mountPoint + "/d", 0o755)),
                    errorNumber(chmod(mountPoint + "/a", 0o600)), errorNumber(truncate(mountPoint + "/a", 0)),
                    errorNumber(rename(mountPoint + "/a", mountPoint + "/c")),
                    errorNumber(symlink("a", mountPoint + "/s")),
                ]
                return (errors, contents(mountPoint + "/a"))
            }
            #expect(errors.allSatisfy { $0 == EROFS }, "\(errors)")
            #expect(text == "as it was")
            #expect(contents(export + "/a") == "as it was")
        }
    }
}
