import Testing
import Wire

@testable import ManagerService

@Suite struct PlacementTests {
    private func processor(_ index: UInt64, running: Int) -> ProcessorCandidate {
        ProcessorCandidate(node: NodeID(rawValue: index + 1), name: "processor\(index)", runningPrograms: running)
    }

    private func memory(_ index: UInt64, used: UInt64 = 0, programs: Int = 0, capacity: UInt64 = 1 << 30)
        -> MemoryCandidate
    {
        MemoryCandidate(
            node: NodeID(rawValue: index + 1), name: "memory\(index)", capacityBytes: capacity, usedBytes: used,
            placedPrograms: programs)
    }

    @Test func processorsByRunningProgramsThenName() {
        #expect(ProcessorPlacement.choose([]) == nil)
        #expect(ProcessorPlacement.choose([processor(0, running: 2), processor(1, running: 1)])?.name == "processor1")
        #expect(ProcessorPlacement.choose([processor(10, running: 1), processor(2, running: 1)])?.name == "processor2")
    }

    @Test func lateProcessorsAreTakenOnlyWhereAllAreLate() {
        var late = processor(0, running: 0)
        late.isLate = true
        #expect(ProcessorPlacement.choose([late, processor(1, running: 9)])?.name == "processor1")
        #expect(ProcessorPlacement.choose([late])?.name == "processor0")
    }

    @Test func lateMemoriesComeLastButKeepTheirPrograms() {
        var late = memory(0)
        late.isLate = true
        #expect(MemoryPlacement.choose([late, memory(1, programs: 9)], used: [], excluded: [])?.name == "memory1")
        #expect(MemoryPlacement.choose([late, memory(1)], used: [late.node], excluded: [])?.name == "memory0")
        let full = memory(1, used: 1 << 30)
        #expect(MemoryPlacement.choose([late, full], used: [], excluded: [])?.name == "memory0")
    }

    @Test func twoProgramsOnTwoEmptyMemoriesLandOnDifferentOnes() {
        let first = MemoryPlacement.choose([memory(0), memory(1)], used: [], excluded: [])
        #expect(first?.name == "memory0")
        // The first has used nothing yet; that it was placed counts.
        let second = MemoryPlacement.choose([memory(0, programs: 1), memory(1)], used: [], excluded: [])
        #expect(second?.name == "memory1")
    }

    struct Case: Sendable, CustomTestStringConvertible {
        var testDescription: String
        var candidates: [MemoryCandidate]
        var used: [UInt64] = []
        var excluded: Set<UInt64> = []
        var expected: String?
    }

    static let cases: [Case] = {
        let (full, tiny) = (UInt64(1 << 30), UInt64(65536))
        func memory(_ index: UInt64, used: UInt64 = 0, programs: Int = 0, capacity: UInt64 = 1 << 30) -> MemoryCandidate
        {
            MemoryCandidate(
                node: NodeID(rawValue: index), name: "memory\(index)", capacityBytes: capacity, usedBytes: used,
                placedPrograms: programs)
        }
        return [
            Case(testDescription: "none", candidates: [], expected: nil),
            Case(
                testDescription: "fewer used bytes among equals", candidates: [memory(1, used: 9), memory(2, used: 8)],
                expected: "memory2"),
            Case(
                testDescription: "programs count before bytes",
                candidates: [memory(1, used: 9), memory(2, used: 0, programs: 1)], expected: "memory1"),
            Case(
                testDescription: "names in people's order", candidates: [memory(10), memory(9)], expected: "memory9"),
            Case(
                testDescription: "stays where it is, however loaded",
                candidates: [memory(1, used: 9 << 20, programs: 5), memory(2)], used: [1], expected: "memory1"),
            Case(
                testDescription: "the latest of those it uses", candidates: [memory(1), memory(2), memory(3)],
                used: [3, 2], expected: "memory2"),
            Case(
                testDescription: "moves on when its own is full", candidates: [memory(1, used: full), memory(2)],
                used: [1], expected: "memory2"),
            Case(
                testDescription: "back to an earlier one with room",
                candidates: [memory(1), memory(2, used: full), memory(3)], used: [1, 2], expected: "memory1"),
            Case(
                testDescription: "excluded ones never", candidates: [memory(1), memory(2)], used: [1], excluded: [1],
                expected: "memory2"),
            Case(
                testDescription: "all excluded", candidates: [memory(1), memory(2)], excluded: [1, 2], expected: nil),
            Case(
                testDescription: "less than a chunk is no room", candidates: [memory(1, used: full - tiny + 1)],
                expected: nil),
            Case(
                testDescription: "one chunk is room", candidates: [memory(1, used: full - tiny)], expected: "memory1"),
            Case(
                testDescription: "a report beyond the capacity", candidates: [memory(1, used: .max)], expected: nil),
            Case(testDescription: "no capacity", candidates: [memory(1, capacity: 0)], expected: nil),
            Case(
                testDescription: "one it uses is gone", candidates: [memory(2)], used: [1], expected: "memory2"),
        ]
    }()

    @Test(arguments: cases) func memories(_ example: Case) {
        let choice = MemoryPlacement.choose(
            example.candidates, used: example.used.map(NodeID.init), excluded: Set(example.excluded.map(NodeID.init)))
        #expect(choice?.name == example.expected)
    }
}
