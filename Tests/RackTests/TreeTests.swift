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

    /// Whoever writes a file on the host, or a program, and then submits another program, has it find what was written:
    /// at once, whatever earlier programs found there.
    @Test func whatWasDoneBeforeIsSeen() throws {
        let directory = try Rack.makeDirectory()
        defer { _ = try? Command("rm", ["-rf", directory]).run() }
        let work = directory + "/work"
        try Rack.with { rack in
            func expect(_ script: String, _ text: String, _ what: String) throws {
                let result = try rack.run(["--cwd", "/"], ["/bin/sh", "-c", script])
                #expect(result.text == text, "\(what): \(result.errors)")
            }
            func write(_ name: String, _ text: String) throws {
                try text.write(toFile: "\(work)/\(name)", atomically: false, encoding: .utf8)
            }
            for round in 0..<5 {
                mkdir(work, 0o777)
                chmod(work, 0o777)
                try expect("cat \(work)/file 2>/dev/null; ls \(work)", "", "nothing")
                try write("file", "one \(round)\n")
                try expect("cat \(work)/file", "one \(round)\n", "a file that had not been there")
                try write("file", "another \(round)\n")
                try expect("cat \(work)/file", "another \(round)\n", "longer contents")
                try write("other", "replaced\n")
                rename(work + "/other", work + "/file")
                try expect("cat \(work)/file; wc -c <\(work)/file", "replaced\n9\n", "another file of that name")
                try mustRun("cp", ["/bin/false", work + "/program"])
                try expect("\(work)/program; echo $?", "1\n", "a program")
                unlink(work + "/program")
                try mustRun("cp", ["/bin/true", work + "/program"])
                try expect("\(work)/program; echo $?", "0\n", "the program made again")
                unlink(work + "/file")
                try expect("cat \(work)/file 2>/dev/null; ls \(work)", "program\n", "a file that was removed")
                try expect("echo own >\(work)/own && cat \(work)/own", "own\n", "a program's own file")
                try mustRun("rm", ["-rf", work])
                mkdir(work, 0o777)
                chmod(work, 0o777)
                try write("again", "again\n")
                try expect("cat \(work)/again \(work)/own", "again\nown\n", "a directory that was made again")
                try expect("rm \(work)/own; ls \(work)", "again\n", "its listing")
                try mustRun("rm", ["-rf", work])
            }
        }
    }

    /// A directory that programs have written in is one of the host's and one of theirs at once, also when the host's is
    /// another one now, or gone. On the file system of the component's state, and on another one.
    @Test func aDirectoryOfBothIsMadeAnew() throws {
        let directory = try Rack.makeDirectory()
        let other = directory + "/other"
        defer {
            _ = try? Command("umount", [other]).run()
            _ = try? Command("rm", ["-rf", directory]).run()
        }
        mkdir(other, 0o755)
        try mustRun("mount", ["-t", "tmpfs", "-o", "mode=0777", "tmpfs", other])
        chmod(directory, 0o777)
        try Rack.with { rack in
            for work in [directory + "/work", other + "/work"] {
                func make(_ name: String) throws {
                    mkdir(work, 0o777)
                    chmod(work, 0o777)
                    try "of the host".write(toFile: "\(work)/\(name)", atomically: false, encoding: .utf8)
                }
                func expect(_ script: String, _ text: String) throws {
                    let result = try rack.run(["--cwd", "/"], ["/bin/sh", "-c", script])
                    #expect(result.text == text, "\(script): \(result.errors)")
                }
                try make("first")
                try expect("echo own >\(work)/own; ls \(work)", "first\nown\n")
                for round in 0..<4 {
                    try mustRun("rm", ["-rf", work])
                    try make("made-\(round)")
                    try expect("ls \(work)", "made-\(round)\nown\n")
                    try mustRun("rm", ["-rf", work])
                    try expect("ls \(work)", "own\n")
                    try "a file".write(toFile: work, atomically: false, encoding: .utf8)
                    try expect("ls \(work)", "own\n")
                    unlink(work)
                }
                try make("last")
                try expect("rm -r \(work) && mkdir \(work) && ls \(work) && echo done", "done\n")
                try mustRun("rm", ["-rf", work])
                try make("hidden")
                try expect("ls \(work)", "")
            }
        }
    }
}
