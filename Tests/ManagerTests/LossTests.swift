import Glibc
import Lite
import ManagementAPI
import Testing
import Wire

@testable import ManagerService

/// Components that fall silent, die or come back; time is manual.
@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root")) struct LossTests {
    @Test func aSilentProcessorTakesItsProgramsAlongAndNothingElse() async throws {
        try await ManagerLab.run { lab in
            let first = try await lab.component(.processor, "processor0")
            let second = try await lab.component(.processor, "processor1")
            let memory = try await lab.component(.memory, "memory0")
            _ = try await lab.submit(.sort())
            _ = try await lab.submit(.sort())

            lab.clock.advance(milliseconds: 1000)
            try await blocking {
                #expect(second.heartbeat() == .ok)
                #expect(memory.heartbeat(used: 7) == .ok)
            }
            lab.control.tick()
            #expect(
                try await lab.healths()
                    == ["manager": "healthy", "processor0": "suspect", "processor1": "healthy", "memory0": "healthy"])
            lab.clock.advance(milliseconds: 500)
            lab.control.tick()
            let healths = try await lab.healths()
            #expect(healths["processor0"] == "lost" && healths["processor1"] == "healthy")

            let lost = try await lab.wait(1, seconds: 30)
            #expect(lost.state == .lost && lost.reason == "processor component processor0 was lost")
            #expect(try await lab.wait(2).state == .running)
            // The memory component is told to free what the processor held.
            #expect(try await eventually { memory.seen.withLock { $0.releases.count } == 1 })
            let release = memory.seen.withLock { $0.releases.first }
            #expect(release == MemoryReleaseOwner(processor: first.node.id, program: ProgramID(rawValue: 0)))
        }
    }

    @Test func aProcessorThatWasGivenUpIsFencedAndItsProgramsAreKilledWhenItReturns() async throws {
        try await ManagerLab.run { lab in
            let processor = try await lab.component(.processor, "processor0")
            _ = try await lab.submit(.sort())
            lab.clock.advance(milliseconds: 1500)
            lab.control.tick()
            _ = try await lab.wait(1, seconds: 30)
            // Its connection is cut; it comes back over another.
            let address = lab.node.address
            let node = lab.node
            #expect(try await eventually { node.peer(processor.node.id) == nil && processor.node.peer(node.id) == nil })
            try await blocking {
                #expect(throws: Never.self) { try processor.join(address) }
                #expect(processor.heartbeat() == .ok)
                #expect(processor.report(1, .running) == .ok)
            }
            #expect(
                try await eventually {
                    processor.seen.withLock { $0.signals }
                        == [ManagerProcessorSignal(program: ProgramID(rawValue: 1), signal: UInt32(SIGKILL))]
                })
            let program = try await lab.wait(1)
            #expect(program.state == .lost, "what was told to the user stays true")
            #expect(try await lab.healths()["processor0"] == "healthy")
        }
    }

    @Test func unknownNodesAreFenced() async throws {
        try await ManagerLab.run { lab in
            let processor = try await lab.component(.processor, "processor0")
            _ = try await lab.submit(.sort())
            lab.clock.advance(milliseconds: 1500)
            lab.control.state.withLock { _ = $0.membership.expire(now: lab.clock.now) }
            try await blocking {
                #expect(processor.heartbeat() == .fenced)
                #expect(processor.report(1, .exited, exitStatus: 0) == .fenced)
                #expect(processor.place(1).status == .fenced)
            }
        }
    }

    @Test func aDeadComponentIsSuspectAtOnceAndMakesRoomForItsSuccessor() async throws {
        try await ManagerLab.run { lab in
            let first = try await lab.component(.processor, "processor0")
            _ = try await lab.submit(.sort())
            try await blocking { first.close() }
            let control = lab.control
            #expect(
                try await eventually {
                    control.state.withLock { $0.membership.component(named: "processor0")?.health } == .suspect
                })
            let second = try await lab.component(.processor, "processor0")
            let lost = try await lab.wait(1, seconds: 30)
            #expect(lost.state == .lost && lost.reason == "processor component processor0 was lost")
            _ = try await lab.submit(.sort())
            #expect(second.seen.withLock { $0.starts.map(\.program.rawValue) } == [2])
            // No late verdict on the predecessor touches the successor.
            lab.clock.advance(milliseconds: 1000)
            try await blocking { #expect(second.heartbeat() == .ok) }
            lab.clock.advance(milliseconds: 1000)
            lab.control.tick()
            #expect(try await lab.wait(2).state == .running)
        }
    }

    @Test func aLostStorageComponentIsShownAndNoMore() async throws {
        try await ManagerLab.run { lab in
            let processor = try await lab.component(.processor, "processor0")
            _ = try await lab.component(.storage, "storage0")
            _ = try await lab.submit(.sort())
            lab.clock.advance(milliseconds: 1400)
            try await blocking { #expect(processor.heartbeat() == .ok) }
            lab.clock.advance(milliseconds: 100)
            lab.control.tick()
            #expect(try await lab.healths()["storage0"] == "lost")
            #expect(try await lab.wait(1).state == .running)
        }
    }

    @Test func placesGoToTheLeastLoadedMemoryAndStay() async throws {
        try await ManagerLab.run { lab in
            let processor = try await lab.component(.processor, "processor0")
            let stranger = try await lab.component(.processor, "processor1")
            let memories = [
                try await lab.component(.memory, "memory0"), try await lab.component(.memory, "memory1"),
            ]
            for _ in 0..<3 { _ = try await lab.submit(.sort()) }
            try await blocking {
                #expect(processor.place(1).response?.name == "memory0")
                #expect(processor.place(3).response?.name == "memory1")
                #expect(processor.place(1).response?.name == "memory0")
                let other = processor.place(1, excluded: [memories[0].node.id])
                #expect(other.response?.memory == memories[1].node.id)
                #expect(other.response?.liteAddress == memories[1].node.address.description)
                #expect(processor.place(1, excluded: memories.map(\.node.id)).status == .noSpace)
                #expect(processor.place(2).status == .notFound, "program 2 runs on the other processor")
                #expect(stranger.place(2).status == .ok)
                #expect(processor.place(99).status == .notFound)
                #expect(memories[0].place(1).status == .fenced, "only processors have programs")
                #expect(memories[0].heartbeat(used: 1 << 30) == .ok)
                #expect(memories[1].heartbeat(used: (1 << 30) - 65535) == .ok)
                #expect(processor.place(1).status == .noSpace, "both are full")
            }
        }
    }

    @Test func componentsAreKilledByRootOnly() async throws {
        try await ManagerLab.run { lab in
            let memory = try await lab.component(.memory, "memory0")
            #expect(await status { try await lab.kill("memory0", asUser: 1000) } == 403)
            #expect(memory.seen.withLock { $0.terminations } == 0)
            try await lab.kill("memory0")
            #expect(memory.seen.withLock { $0.terminations } == 1)
            let unknown = await refusal { try await lab.kill("memory7") }
            #expect(unknown?.status == 404)
            #expect(unknown?.failure.reason == "there is no component 'memory7'; the rack has manager, memory0")
            #expect(await status { try await lab.kill("manager") } == 409)
            lab.clock.advance(milliseconds: 1500)
            lab.control.tick()
            #expect(await status { try await lab.kill("memory0") } == 409)
        }
    }

    @Test func identitiesAreChecked() async throws {
        try await ManagerLab.run { lab in
            let processor = try await lab.component(.processor, "processor0")
            let memory = try await lab.component(.memory, "memory0")
            try await blocking {
                let forged: (status: Status, response: ManagerComponentHeartbeat?) = memory.call(
                    RackFunction.heartbeat, ComponentManagerHeartbeat(node: processor.node.id, usedBytes: 0))
                #expect(forged.status == .malformed)
                let stolen: (status: Status, response: ManagerComponentRegistered?) = memory.call(
                    RackFunction.registerComponent,
                    ComponentManagerRegister(
                        kind: .processor, name: "processor0", node: memory.node.id, liteAddress: "", attachAddress: "",
                        capacityBytes: 0, processID: 1, hostID: ""))
                #expect(stolen.status == .exists)
            }
            _ = try await lab.submit(.sort())
            try await blocking { _ = memory.report(1, .exited, exitStatus: 0) }
            #expect(try await lab.wait(1).state == .running, "only its processor says how a program ended")
        }
    }
}
