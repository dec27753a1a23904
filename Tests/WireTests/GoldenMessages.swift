import Wire

/// One message of each kind with the bytes that it must have for ever. They were packed from the lists of fields by
/// another program, not by the encoders that they hold.
enum GoldenMessages {
    private static var statistics: ProgramStatistics {
        var statistics = ProgramStatistics()
        statistics.faults = 1
        statistics.zeroFills = 2
        statistics.remoteReadPages = 3
        statistics.remoteWritePages = 4
        statistics.evictedPages = 5
        statistics.residentBytes = 6
        statistics.peakResidentBytes = 7
        statistics.remoteBytes = 8
        statistics.peakRemoteBytes = 9
        statistics.perMemory = [
            MemoryShare(memory: "memory0", bytes: 65536), MemoryShare(memory: "memory1", bytes: 131072),
        ]
        return statistics
    }

    static let all: [MessageSample] = processes + components + memory

    private static var processes: [MessageSample] {
        [
            MessageSample(
                "start",
                ManagerProcessorStart(
                    program: ProgramID(rawValue: 3), name: "sort", arguments: ["sort", "-n"],
                    environment: ["PATH=/bin", "LANG=C"], workingDirectory: "/home/ada", user: 1000,
                    group: 1001, groups: [4, 27], excacheBytes: 64 << 20, isDetached: true,
                    attachToken: Array(0..<16), mayStartElsewhere: true, terminal: TerminalSize(rows: 24, columns: 80),
                    memoryBytes: 1 << 30, processors: [5, 1 << 63], rackMemoryBytes: 4 << 30),
                "030000000000000004000000736f72740200000004000000736f7274020000002d6e0200000009000000504154483d2f"
                    + "62696e060000004c414e473d43090000002f686f6d652f616461e8030000e903000002000000040000001b0000000000"
                    + "0004000000000110000000000102030405060708090a0b0c0d0e0f010118005000000000400000000002000000050000"
                    + "000000000000000000000000800000000001000000"),
            MessageSample(
                "join",
                ManagerProcessorJoin(
                    program: ProgramID(rawValue: 3), arguments: ["ps", "-e"], environment: ["TERM=xterm"],
                    workingDirectory: "/tmp", terminal: nil, attachToken: Array(0..<16)),
                "030000000000000002000000020000007073020000002d65010000000a0000005445524d3d787465726d040000002f74"
                    + "6d70000000000010000000000102030405060708090a0b0c0d0e0f"),
            MessageSample(
                "terminal size", TerminalSize(rows: 24, columns: 80),
                "18005000"),
            MessageSample(
                "started",
                ProcessorManagerStarted(reason: "/bin/nope: no such program", exitStatus: 127),
                "1a0000002f62696e2f6e6f70653a206e6f20737563682070726f6772616d7f000000"),
            MessageSample(
                "signal",
                ManagerProcessorSignal(program: ProgramID(rawValue: 3), signal: 15),
                "03000000000000000f000000"),
            MessageSample(
                "statistics request",
                ManagerProcessorStatistics(program: ProgramID(rawValue: 3)),
                "0300000000000000"),
            MessageSample(
                "statistics",
                statistics,
                "010000000000000002000000000000000300000000000000040000000000000005000000000000000600000000000000"
                    + "07000000000000000800000000000000090000000000000002000000070000006d656d6f727930000001000000000007"
                    + "0000006d656d6f7279310000020000000000"),
            MessageSample(
                "place request",
                ProcessorManagerPlace(
                    program: ProgramID(rawValue: 3),
                    excluded: [
                        NodeID(rawValue: 10),
                        NodeID(rawValue: 11),
                    ]),
                "0300000000000000020000000a000000000000000b00000000000000"),
            MessageSample(
                "place",
                ManagerProcessorPlace(
                    memory: NodeID(rawValue: 10), name: "memory0", liteAddress: "127.0.0.1:7001"),
                "0a00000000000000070000006d656d6f7279300e0000003132372e302e302e313a37303031"),
            MessageSample(
                "report",
                ProcessorManagerReport(
                    program: ProgramID(rawValue: 3), state: .lost, exitStatus: -1, signal: 9,
                    reason: "memory1 was lost", statistics: statistics),
                "030000000000000002ffffffff09000000100000006d656d6f72793120776173206c6f73740100000000000000020000"
                    + "000000000003000000000000000400000000000000050000000000000006000000000000000700000000000000080000"
                    + "0000000000090000000000000002000000070000006d656d6f7279300000010000000000070000006d656d6f72793100"
                    + "00020000000000"),
            MessageSample(
                "attach exit",
                AttachExit(state: .exited, exitStatus: 3, signal: 0, reason: ""),
                "01030000000000000000000000"),
        ]
    }

    private static var components: [MessageSample] {
        [
            MessageSample(
                "register",
                ComponentManagerRegister(
                    kind: .memory, name: "memory0", node: NodeID(rawValue: 0x1122_3344_5566_7788),
                    liteAddress: "127.0.0.1:7001", attachAddress: "", capacityBytes: 1 << 30,
                    processID: 4242, hostID: "3f0c"),
                "02070000006d656d6f72793088776655443322110e0000003132372e302e302e313a3730303100000000000000400000"
                    + "0000921000000400000033663063"),
            MessageSample(
                "registered",
                ManagerComponentRegistered(name: "memory0", leaseMilliseconds: 1500, membershipEpoch: 7),
                "070000006d656d6f727930dc0500000700000000000000"),
            MessageSample(
                "heartbeat",
                ComponentManagerHeartbeat(node: NodeID(rawValue: 9), usedBytes: 4096),
                "09000000000000000010000000000000"),
            MessageSample(
                "heartbeat answer",
                ManagerComponentHeartbeat(membershipEpoch: 8, memoryBytes: 4 << 30, memoryUsedBytes: 1 << 20),
                "080000000000000000000000010000000000100000000000"),
            MessageSample(
                "membership request",
                ComponentManagerMembership(),
                ""),
            MessageSample(
                "member",
                RackMember(
                    kind: .processor, health: .suspect, name: "processor0",
                    node: NodeID(rawValue: 5), liteAddress: "[::1]:9"),
                "01010a00000070726f636573736f72300500000000000000070000005b3a3a315d3a39"),
            MessageSample(
                "membership",
                ManagerComponentMembership(
                    epoch: 3,
                    members: [
                        RackMember(
                            kind: .storage, health: .lost, name: "storage0",
                            node: NodeID(rawValue: 6), liteAddress: "a:1")
                    ]),
                "03000000000000000100000003020800000073746f7261676530060000000000000003000000613a31"),
            MessageSample(
                "terminate",
                ManagerComponentTerminate(),
                ""),
            MessageSample(
                "fabric request",
                ManagerComponentFabric(),
                ""),
            MessageSample(
                "fabric",
                ComponentManagerFabric(
                    device: "emulated + rxe0", adapterAbsence: "", regions: 7, registeredBytes: 4096,
                    links: [
                        FabricLink(
                            peer: NodeID(rawValue: 5), path: "tcp", reason: "no RDMA adapter", isInitiator: true,
                            queuePairs: 2, requests: 3, bytesOut: 4, bytesIn: 5, model: "hdr")
                    ]),
                "0f000000656d756c61746564202b20727865300000000007000000001000000000000001000000050000000000"
                    + "0000030000007463700f0000006e6f2052444d4120616461707465720102000000030000000000000004000000"
                    + "00000000050000000000000003000000686472"),
            MessageSample(
                "link model",
                ManagerComponentLinkModel(peer: "memory0", model: "custom:600:25000000000"),
                "070000006d656d6f72793016000000637573746f6d3a3630303a3235303030303030303030"),
            MessageSample(
                "measure",
                ManagerComponentMeasure(peer: NodeID(rawValue: 9)),
                "0900000000000000"),
            MessageSample(
                "measured",
                ComponentManagerMeasured(latency_ns: 450, bytesPerSecond: [1, 2, 3]),
                "c201000000000000010000000000000002000000000000000300000000000000"),
            MessageSample(
                "acknowledgement",
                Acknowledgement(),
                ""),
        ]
    }

    private static var memory: [MessageSample] {
        [
            MessageSample(
                "reserve",
                ProcessorMemoryReserve(program: ProgramID(rawValue: 3), count: 64),
                "030000000000000040000000"),
            MessageSample(
                "chunks",
                ChunkList(program: ProgramID(rawValue: 3), chunks: [0, 1, .max]),
                "0300000000000000030000000000000001000000ffffffff"),
            MessageSample(
                "release owner",
                MemoryReleaseOwner(processor: NodeID(rawValue: 5), program: ProgramID(rawValue: 0)),
                "05000000000000000000000000000000"),
        ]
    }
}
