import Foundation
import Testing

/// Programs of many processes and threads, with their results compared to native ones. `Scripts/test.sh --all` installs
/// and runs those that need large packages or much time.
@Suite(.serialized)
struct WorkloadTests {
    private static let isHeavy: Comment = "runs with Scripts/test.sh --all"

    private func compare(_ workload: Workload, isBounded: Bool = true) throws {
        try Rack.with(["--memories", "2", "--memory-size", "1GiB"]) { rack in
            try workload.compare(in: rack, isBounded: isBounded)
        }
    }

    @Test func makeBuildsAProjectInParallel() throws {
        try compare(Workload("make", [TestScale.isFull ? "200" : "16"], excache: 32, limit: .seconds(900)))
    }

    @Test func pythonMultiprocessing() throws {
        try compare(Workload("processes", [TestScale.isFull ? "8" : "1"], excache: 24))
    }

    @Test func sqliteWithSeveralWriters() throws {
        try compare(Workload("sqlite", [TestScale.isFull ? "40" : "4"], excache: 8))
    }

    @Test func perlAndItsChildren() throws { try compare(Workload("perl", excache: 6)) }

    @Test func gitOnTheProjectsRepository() throws {
        try Rack.with(["--memory-size", "1GiB"]) { rack in
            // The user of the test may not see where the project lies.
            let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().path + "/../.."
            let repository = rack.directory + "/repository.git"
            let script = """
                git -c safe.directory='*' clone -q --bare --no-local '\(root)' '\(repository)' || {
                  git init -q --bare '\(repository)' && cd '\(root)' &&
                  git --git-dir='\(repository)' --work-tree=. add -f Sources Tests &&
                  git --git-dir='\(repository)' -c user.name=x -c user.email=x@x commit -qm all
                }
                chmod -R a+rX '\(repository)'
                """
            let made = try Command("sh", ["-c", script]).run()
            try #require(made.status == 0, "\(made.errors)")
            try Workload("git", [repository], excache: 16).compare(in: rack)
        }
    }

    /// A traced process keeps its memory local (`MonitorCore+Native.swift`).
    @Test func gdbAndCoreFiles() throws { try compare(Workload("gdb", excache: 24), isBounded: false) }

    @Test func straceFollowsProcesses() throws { try compare(Workload("strace", excache: 8), isBounded: false) }

    /// Agents are killed with the rest, some of them while they are started. Not to be run outside a pid namespace.
    @Test func whoKillsAllOthersGoesOn() throws {
        let script = """
            for i in 1 2 3 4; do (while :; do /bin/true; (echo $i | cat >/dev/null); done) & done
            python3 -c 'import os
            l = list(range(300000))
            while True: os.waitpid(os.fork() or os._exit(sum(l) & 1), 0)' &
            sleep 0.$0
            kill -9 -1
            seq 3000 | sort -rn | head -1
            python3 -c 'print(sum(range(100000)))'
            exit 7
            """
        try Rack.with(["--memory-size", "512MiB"]) { rack in
            for delay in TestScale.isFull ? Array(1...9) + Array(1...9) : [1, 2, 4] {
                let result = try rack.run(["--excache", "8MiB"], ["/bin/bash", "-c", script, "\(delay)"])
                #expect(result.status == 7, "\(delay): \(result.errors)")
                #expect(result.text == "3000\n4999950000\n", "\(delay)")
            }
        }
    }

    @Test(.enabled(if: TestScale.isFull, isHeavy)) func goRoutinesAndCollector() throws {
        try compare(Workload("go", excache: 24, limit: .seconds(600)))
    }

    @Test(.enabled(if: TestScale.isFull, isHeavy)) func rustCompilerAndThreads() throws {
        try compare(Workload("rust", excache: 64, limit: .seconds(600)))
    }

    @Test(.enabled(if: TestScale.isFull, isHeavy)) func javaCompilerAndCollectors() throws {
        try compare(Workload("java", excache: 64, limit: .seconds(900)))
    }

    @Test(.enabled(if: TestScale.isFull, isHeavy)) func nodeWorkers() throws {
        try compare(Workload("node", excache: 48, limit: .seconds(300)))
    }

    @Test(.enabled(if: TestScale.isFull, isHeavy)) func numpyScipyAndScikitLearn() throws {
        try compare(Workload("arrays", excache: 64, limit: .seconds(600)))
    }

    /// Needs `Scripts/test.sh --all`, which installs PyTorch where this looks for it.
    @Test(.enabled(if: TestScale.isFull, isHeavy)) func pyTorchTrains() throws {
        try compare(Workload("tensors", excache: 192, limit: .seconds(900)))
    }

    @Test(.enabled(if: TestScale.isFull, isHeavy)) func ffmpegEncodesAndDecodes() throws {
        try compare(Workload("ffmpeg", excache: 32, limit: .seconds(300)))
    }

    @Test(.enabled(if: TestScale.isFull, isHeavy)) func postgresWithClientsAndRecovery() throws {
        try compare(Workload("postgres", excache: 24, limit: .seconds(600)))
    }
}
