import Testing
import Wire

/// Values that decode as numbers and texts, but are out of a message's range.
@Suite struct RangeTests {
    private func isRefused<Message: WireMessage & Equatable>(_ message: Message) -> Bool {
        let bytes = MessageSample.encoded(message, capacity: 1 << 20)
        return bytes.withUnsafeBytes { Message(decoding: $0) } == nil
    }

    private func registration(
        kind: ComponentKind = .memory, name: String = "m", node: UInt64 = 1, address: String = "a:1"
    )
        -> ComponentManagerRegister
    {
        ComponentManagerRegister(
            kind: kind, name: name, node: NodeID(rawValue: node), liteAddress: address, attachAddress: "",
            capacityBytes: 0, processID: 1, hostID: "h")
    }

    @Test func registration() {
        #expect(!isRefused(registration(name: String(repeating: "n", count: WireLimit.name_max))))
        #expect(isRefused(registration(name: String(repeating: "n", count: WireLimit.name_max + 1))))
        #expect(isRefused(registration(address: String(repeating: "n", count: WireLimit.address_max + 1))))
        #expect(isRefused(registration(node: 0)))
        var bytes = MessageSample.encoded(registration(), capacity: 1024)
        bytes[0] = 4
        #expect(bytes.withUnsafeBytes { ComponentManagerRegister(decoding: $0) } == nil, "there is no fifth kind")
    }

    private func start(
        arguments: [String] = ["a"], directory: String = "/", groups: Int = 0, token: Int = 16
    ) -> ManagerProcessorStart {
        ManagerProcessorStart(
            program: ProgramID(rawValue: 1), name: "a", arguments: arguments, environment: [],
            workingDirectory: directory, user: 0, group: 0, groups: Array(repeating: 0, count: groups), excacheBytes: 0,
            isDetached: false, attachToken: Array(repeating: 0, count: token))
    }

    @Test func start() {
        #expect(!isRefused(start(groups: WireLimit.groups_max)))
        #expect(isRefused(start(arguments: [])))
        #expect(isRefused(start(arguments: Array(repeating: "", count: WireLimit.arguments_max + 1))))
        #expect(isRefused(start(arguments: [String(repeating: "x", count: WireLimit.argumentBytes_max + 1)])))
        #expect(isRefused(start(directory: "home")))
        #expect(isRefused(start(directory: "")))
        #expect(isRefused(start(directory: "/" + String(repeating: "x", count: WireLimit.path_max))))
        #expect(isRefused(start(groups: WireLimit.groups_max + 1)))
        #expect(isRefused(start(token: 15)))
        #expect(isRefused(start(token: 17)))
    }

    @Test(arguments: [UInt32(0), 65, .max]) func signal(number: UInt32) {
        #expect(isRefused(ManagerProcessorSignal(program: ProgramID(rawValue: 1), signal: number)))
    }

    @Test(arguments: [UInt32(0), 4097, .max]) func reservation(count: UInt32) {
        #expect(isRefused(ProcessorMemoryReserve(program: ProgramID(rawValue: 1), count: count)))
    }

    @Test func lists() {
        let program = ProgramID(rawValue: 1)
        #expect(!isRefused(ChunkList(program: program, chunks: Array(0..<4096))))
        #expect(isRefused(ChunkList(program: program, chunks: Array(0..<4097))))
        let node = NodeID(rawValue: 1)
        let excluded = Array(repeating: node, count: WireLimit.components_max + 1)
        #expect(isRefused(ProcessorManagerPlace(program: program, excluded: excluded)))
        let member = RackMember(kind: .memory, health: .healthy, name: "", node: node, liteAddress: "")
        let members = Array(repeating: member, count: WireLimit.components_max + 1)
        #expect(isRefused(ManagerComponentMembership(epoch: 1, members: members)))
        for model in ["", "off", "hdr ", "custom:1:1"] {
            #expect(isRefused(ManagerComponentLinkModel(peer: "memory0", model: model)) == !model.isEmpty)
        }
        #expect(isRefused(ManagerComponentLinkModel(peer: "", model: "hdr")))
        var statistics = ProgramStatistics()
        statistics.perMemory = Array(repeating: MemoryShare(memory: "", bytes: 0), count: WireLimit.components_max + 1)
        #expect(isRefused(statistics))
    }

    @Test func reasons() {
        let long = String(repeating: "r", count: WireLimit.reason_max + 1)
        #expect(isRefused(ProcessorManagerStarted(reason: long, exitStatus: 0)))
        #expect(isRefused(AttachExit(state: .lost, exitStatus: 0, signal: 0, reason: long)))
    }
}
