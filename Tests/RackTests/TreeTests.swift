import Foundation
import Glibc
import Kernel
import Testing

/// The default tree: what is mounted on the host below `/` is there, and stays as it is.
@Suite(.serialized)
struct TreeTests {
    private func mustRun(_ path: String, _ arguments: [String], location: SourceLocation = #_sourceLocation) throws {
        let result = try Command(path, arguments).run()
        try #require(result.status == 0, "\(path): \(result.errors)", sourceLocation: location)
    }

    /// A tmpfs, a disk image and a bind mount of a directory, each with a file in it.
    @Test func mountedFileSystemsAreSeenAndNotChanged() throws {
        let directory = try Rack.makeDirectory()
        var mounted: [String] = []
        defer {
            for place in mounted.reversed() { _ = try? Command("umount", [place]).run() }
            _ = try? Command("rm", ["-rf", directory]).run()
        }
        for name in ["memory", "disk", "bound", "original"] { mkdir("\(directory)/\(name)", 0o755) }
        try mustRun("mount", ["-t", "tmpfs", "-o", "size=16m", "lego-test", directory + "/memory"])
        mounted.append(directory + "/memory")
        try mustRun("mount", ["--bind", directory + "/original", directory + "/bound"])
        mounted.append(directory + "/bound")
        try mustRun("truncate", ["-s", "16M", directory + "/image"])
        try mustRun("mkfs.ext4", ["-q", directory + "/image"])
        try mustRun("mount", ["-o", "loop", directory + "/image", directory + "/disk"])
        mounted.append(directory + "/disk")
        let places = ["memory", "disk", "bound"].map { "\(directory)/\($0)" }
        for place in places {
            chmod(place, 0o777)
            try "of the host\n".write(toFile: place + "/file", atomically: false, encoding: .utf8)
            chmod(place + "/file", 0o666)
        }

        try Rack.with { rack in
            let script = """
                for place in \(places.joined(separator: " ")); do
                    cat $place/file && echo changed > $place/file && echo new > $place/other && cat $place/file $place/other
                done
                """
            let result = try rack.run([], ["/bin/sh", "-c", script])
            #expect(result.text == String(repeating: "of the host\nchanged\nnew\n", count: 3), "\(result.errors)")
        }
        for place in places {
            #expect(try String(contentsOfFile: place + "/file", encoding: .utf8) == "of the host\n")
            #expect(!FileManager.default.fileExists(atPath: place + "/other"), "\(place) of the host was written to")
        }
    }
}
