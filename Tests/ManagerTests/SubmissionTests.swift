import Glibc
import ManagementAPI
import Synchronization
import Testing
import Wire

@testable import ManagerService

extension SubmitRequest {
    static func sort(user: String? = nil, isDetached: Bool = false) -> SubmitRequest {
        SubmitRequest(
            arguments: ["/usr/bin/sort", "-n"], environment: ["HOME=/x", "A=b"], workingDirectory: "/tmp", user: user,
            isDetached: isDetached)
    }
}

/// Why the API refused a request of a test.
func refusal(_ body: () async throws -> Void) async -> (status: Int, failure: APIFailure)? {
    do {
        try await body()
        return nil
    } catch ManagementError.refused(let status, let failure) {
        return (status, failure)
    } catch {
        Issue.record("an error of another kind: \(error)")
        return nil
    }
}

/// The HTTP status of that refusal; nil when there was none.
func status(_ body: () async throws -> Void) async -> Int? { await refusal(body)?.status }

/// A live manager with processors that answer as told; needs root, for acting as several users.
@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root")) struct SubmissionTests {
    @Test func aProgramsLife() async throws {
        try await ManagerLab.run { lab in
            let processor = try await lab.component(.processor, "processor0")
            let submitted = try await lab.submit(.sort(user: "ada", isDetached: true))
            #expect(submitted.id == 1 && submitted.processor == "processor0" && submitted.notice == nil)
            #expect(submitted.attachment.address == "127.0.0.1:9" && submitted.attachment.token.utf8.count == 32)

            let start = try #require(processor.seen.withLock { $0.starts.first })
            #expect(start.program.rawValue == 1 && start.name == "sort" && start.isDetached)
            #expect(start.user == 1000 && start.group == 1001 && start.groups == [1001, 44])
            #expect(start.environment == ["A=b", "HOME=/home/ada", "USER=ada", "LOGNAME=ada"])
            let token = start.attachToken.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
            #expect(token == submitted.attachment.token)

            let share = MemoryShare(memory: "memory0", bytes: 65536)
            try await blocking { #expect(processor.report(1, .running, memories: [share]).isOK) }
            let running = try await lab.programs(all: false)
            #expect(running.map(\.state) == [.running] && running.first?.memories == ["memory0"])
            #expect(running.first?.user == "ada" && running.first?.command == ["/usr/bin/sort", "-n"])

            try await blocking {
                #expect(processor.report(1, .exited, exitStatus: 3).isOK)
                #expect(processor.report(1, .exited, exitStatus: 4).isOK, "a repeated report is acknowledged")
            }
            let ended = try await lab.wait(1, seconds: 0)
            #expect(ended.state == .exited && ended.exitStatus == 3 && ended.signal == nil && ended.reason == nil)
            #expect(ended.memories == ["memory0"], "who held its pages is remembered")
            let left = try await lab.programs(all: false)
            #expect(left == [])
            #expect(try await lab.programs(all: true) == [ended])
            #expect(try await lab.statistics(1).faults == 5)
        }
    }

    @Test func waitsWithoutPolling() async throws {
        try await ManagerLab.run { lab in
            let processor = try await lab.component(.processor, "processor0")
            _ = try await lab.submit(.sort())
            let control = lab.control
            async let waiting = lab.wait(1, seconds: 30)
            #expect(try await eventually { control.waiters.count == 1 })
            try await blocking { _ = processor.report(1, .exited, signal: 15) }
            let ended = try await waiting
            #expect(ended.state == .exited && ended.signal == 15 && ended.exitStatus == nil)
            #expect(try await eventually { control.waiters.count == 0 })
        }
    }

    @Test func theLeastLoadedProcessorIsTaken() async throws {
        try await ManagerLab.run { lab in
            _ = try await lab.component(.processor, "processor0")
            let second = try await lab.component(.processor, "processor1")
            var places: [String] = []
            for _ in 0..<3 { places.append(try await lab.submit(.sort()).processor) }
            #expect(places == ["processor0", "processor1", "processor0"])
            try await blocking { _ = second.report(2, .exited, exitStatus: 0) }
            #expect(try await lab.submit(.sort()).processor == "processor1")
        }
    }

    @Test func aFailedStartTellsWhyAndIsRecorded() async throws {
        try await ManagerLab.run { lab in
            let processor = try await lab.component(.processor, "processor0")
            processor.onStart.withLock {
                $0 = { _ in
                    (.notFound, ProcessorManagerStarted(reason: "/usr/bin/sort: no such program", exitStatus: 127))
                }
            }
            let refused = await refusal { _ = try await lab.submit(.sort()) }
            #expect(refused?.status == 422 && refused?.failure.exitStatus == 127)
            #expect(refused?.failure.reason == "/usr/bin/sort: no such program")
            let all = try await lab.programs(all: true)
            #expect(all.map(\.exitStatus) == [127] && all.first?.reason == "/usr/bin/sort: no such program")
        }
    }

    @Test func aBusyProcessorIsPassedOver() async throws {
        try await ManagerLab.run { lab in
            let first = try await lab.component(.processor, "processor0")
            _ = try await lab.component(.processor, "processor1")
            first.onStart.withLock { $0 = { _ in (.busy, nil) } }
            #expect(try await lab.submit(.sort()).processor == "processor1")
            let all = try await lab.programs(all: true)
            #expect(all.map(\.processor) == ["processor1"], "one program, however many were asked")
        }
    }

    @Test func whenAllAreBusyOneOfThemSaysWhy() async throws {
        try await ManagerLab.run { lab in
            for name in ["processor0", "processor1"] {
                let processor = try await lab.component(.processor, name)
                processor.onStart.withLock {
                    $0 = { _ in (.noSpace, ProcessorManagerStarted(reason: "\(name) is full", exitStatus: 125)) }
                }
            }
            let refused = await refusal { _ = try await lab.submit(.sort()) }
            #expect(refused?.failure.reason == "processor1 is full" && refused?.failure.exitStatus == 125)
        }
    }

    @Test func aStartWithoutAnswerIsGivenUpAndKilled() async throws {
        try await ManagerLab.run({ $0.startDeadline = .milliseconds(50) }) { lab in
            let processor = try await lab.component(.processor, "processor0")
            let release = Semaphore()
            processor.onStart.withLock {
                $0 = { _ in
                    _ = release.wait(seconds: 10)
                    return (.ok, nil)
                }
            }
            let refused = await refusal { _ = try await lab.submit(.sort()) }
            release.post()
            #expect(refused?.status == 504 && refused?.failure.exitStatus == 125)
            #expect(processor.seen.withLock { $0.signals.map(\.signal) } == [UInt32(SIGKILL)])
            #expect(try await lab.programs(all: true).map(\.state) == [.lost])
        }
    }

    @Test func withoutAProcessorNothingRuns() async throws {
        try await ManagerLab.run { lab in
            let refused = await refusal { _ = try await lab.submit(.sort()) }
            #expect(refused?.status == 503 && refused?.failure.exitStatus == 125)
            let all = try await lab.programs(all: true)
            #expect(all == [])
        }
    }

    @Test func tooManyBytesOfArguments() async throws {
        try await ManagerLab.run { lab in
            _ = try await lab.component(.processor, "processor0")
            var request = SubmitRequest.sort()
            request.arguments += Array(repeating: String(repeating: "x", count: 32 << 10), count: 2)
            let refused = await refusal { [request] in _ = try await lab.submit(request) }
            #expect(refused?.status == 422 && refused?.failure.exitStatus == 126)
            // Close below the limit it goes through, all the way.
            request.arguments[3].removeLast(300)
            #expect(try await lab.submit(request).id == 1)
        }
    }

    @Test func usersAreWhoTheKernelSaysTheyAre() async throws {
        try await ManagerLab.run { lab in
            let processor = try await lab.component(.processor, "processor0")
            let asRoot = try await lab.submit(.sort())
            #expect(asRoot.notice?.contains("runs as nobody") == true)
            let asAda = try await lab.submit(.sort(isDetached: true), asUser: 1000)
            #expect(asAda.notice == nil)
            #expect(processor.seen.withLock { $0.starts.map(\.user) } == [65534, 1000])
            #expect(processor.seen.withLock { $0.starts[1].environment } == ["HOME=/x", "A=b"])

            let asBob = await refusal { _ = try await lab.submit(.sort(user: "bob"), asUser: 1000) }
            #expect(asBob?.status == 403)
            let stranger = await refusal { _ = try await lab.submit(.sort(), asUser: 4711) }
            #expect(stranger?.status == 403)

            // Bob sees Ada's program, and that is all.
            #expect(try await lab.programs(all: false, asUser: 1001).count == 2)
            let kill = await refusal { try await lab.signal(2, 9, asUser: 1001) }
            #expect(kill?.status == 403)
            let log = await refusal { _ = try await lab.logs(2, asUser: 1001) }
            #expect(log?.status == 403)
            #expect(processor.seen.withLock { $0.signals.isEmpty })

            try await lab.signal(2, 15, asUser: 1000)
            try await lab.signal(2, 10)
            #expect(processor.seen.withLock { $0.signals.map(\.signal) } == [15, 10])
            #expect(try await lab.logs(2, asUser: 1000) == asAda.attachment)
        }
    }

    @Test func signalsAndLogsThatCannotBe() async throws {
        try await ManagerLab.run { lab in
            let processor = try await lab.component(.processor, "processor0")
            _ = try await lab.submit(.sort())
            for number in [0, 65, -1] {
                let refused = await refusal { try await lab.signal(1, number) }
                #expect(refused?.status == 422)
            }
            #expect(await status { _ = try await lab.logs(1) } == 409)
            try await blocking { _ = processor.report(1, .exited, exitStatus: 0) }
            #expect(await status { try await lab.signal(1, 15) } == 409)
            #expect(await status { try await lab.signal(2, 15) } == 404)
            #expect(await status { _ = try await lab.wait(2, seconds: 0) } == 404)
        }
    }
}
