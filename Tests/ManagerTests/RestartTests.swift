import Glibc
import ManagementAPI
import Testing
import Wire

@testable import ManagerService

/// A manager that ends and comes back on the same directory; the components live on.
@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root")) struct RestartTests {
    private func rejoin(_ fakes: [FakeComponent], _ lab: ManagerLab) async throws {
        let address = lab.node.address
        try await blocking { for fake in fakes { try fake.join(address) } }
    }

    @Test func programsRunOnAndNumbersGoOn() async throws {
        try await ManagerLab.run { lab in
            let processor = try await lab.component(.processor, "processor0")
            _ = try await lab.submit(.sort(isDetached: true))
            _ = try await lab.submit(.sort())
            try await blocking { _ = processor.report(2, .exited, exitStatus: 9) }
            let log = try await lab.logs(1)
            let epoch = lab.control.state.withLock { $0.membership.epoch }

            try await lab.restart()
            #expect(lab.control.state.withLock { $0.membership.epoch } > epoch)
            #expect(try await lab.healths()["processor0"] == "suspect")
            #expect(try await lab.programs(all: true).map(\.state) == [.running, .exited])
            #expect(try await lab.wait(2).exitStatus == 9)
            try await rejoin([processor], lab)
            #expect(try await lab.healths()["processor0"] == "healthy")
            #expect(try await lab.logs(1) == log, "the token survives")
            try await blocking { #expect(processor.report(1, .running) == .ok) }
            lab.clock.advance(milliseconds: 1400)
            try await blocking { #expect(processor.heartbeat() == .ok) }
            lab.clock.advance(milliseconds: 1400)
            try await blocking { #expect(processor.heartbeat() == .ok) }
            lab.clock.advance(milliseconds: 1400)
            lab.control.tick()
            #expect(try await lab.wait(1).state == .running)
            #expect(try await lab.submit(.sort()).id == 3)
            try await blocking { #expect(processor.report(1, .exited, signal: 9) == .ok) }
            #expect(try await lab.wait(1).signal == 9)
        }
    }

    @Test func aProcessorThatDoesNotComeBackIsLost() async throws {
        try await ManagerLab.run { lab in
            let gone = try await lab.component(.processor, "processor0")
            let back = try await lab.component(.processor, "processor1")
            _ = try await lab.submit(.sort())
            _ = try await lab.submit(.sort())
            try await lab.restart()
            try await blocking { gone.close() }
            try await rejoin([back], lab)
            try await blocking { #expect(back.report(2, .running) == .ok) }
            lab.clock.advance(milliseconds: 1400)
            try await blocking { #expect(back.heartbeat() == .ok) }
            lab.clock.advance(milliseconds: 1400)
            try await blocking { #expect(back.heartbeat() == .ok) }
            lab.clock.advance(milliseconds: 200)
            lab.control.tick()
            let lost = try await lab.wait(1, seconds: 30)
            #expect(lost.state == .lost && lost.reason == "processor component processor0 was lost")
            #expect(try await lab.wait(2).state == .running)
        }
    }

    @Test func aProgramThatItsProcessorNeverHeardOfIsLost() async throws {
        try await ManagerLab.run { lab in
            let processor = try await lab.component(.processor, "processor0")
            _ = try await lab.submit(.sort())
            _ = try await lab.submit(.sort())
            // As if the manager had died between the record of program 1 and its start.
            processor.seen.withLock { _ = $0.programs.removeValue(forKey: ProgramID(rawValue: 1)) }
            try await lab.restart()
            try await rejoin([processor], lab)
            lab.clock.advance(milliseconds: 1400)
            try await blocking { #expect(processor.heartbeat() == .ok) }
            lab.clock.advance(milliseconds: 1400)
            try await blocking { #expect(processor.heartbeat() == .ok) }
            lab.control.tick()
            #expect(try await lab.wait(1).state == .running, "it has some time to report")
            lab.clock.advance(milliseconds: 300)
            lab.control.tick()
            let lost = try await lab.wait(1, seconds: 30)
            #expect(lost.state == .lost && lost.reason?.contains("does not know the program") == true)
            let control = lab.control
            #expect(
                try await eventually {
                    control.state.withLock { $0.running[ProgramID(rawValue: 2)]?.isConfirmed } == true
                })
        }
    }

    @Test func aSuccessorOfTheProcessorEndsThePredecessorsPrograms() async throws {
        try await ManagerLab.run { lab in
            let first = try await lab.component(.processor, "processor0")
            _ = try await lab.submit(.sort())
            try await lab.restart()
            try await blocking { first.close() }
            _ = try await lab.component(.processor, "processor0")
            #expect(try await lab.wait(1, seconds: 30).state == .lost)
        }
    }

    @Test func aDirectoryHasOneManager() async throws {
        try await ManagerLab.run { lab in
            let path = lab.directory + "/state"
            do throws(ManagerError) {
                _ = try StateDirectory(path)
                Issue.record("two managers hold one directory")
            } catch {
                guard case .stateInUse(path) = error else {
                    Issue.record("\(error)")
                    return
                }
            }
        }
    }
}
