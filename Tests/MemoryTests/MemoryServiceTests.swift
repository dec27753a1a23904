import Fabric
import Glibc
import Kernel
import Lite
import Logging
import Testing
import Wire

@testable import MemoryService

/// A memory component and its peers, on real nodes.
private final class MemoryLab: Sendable {
    let node: RackNode
    let service: MemoryService

    init(chunks: Int, _ configuration: MemoryServiceConfiguration = MemoryServiceConfiguration()) throws {
        node = try Self.makeNode("memory0", chunks * RemoteChunk.bytes)
        service = try MemoryService(
            node: node, configuration: configuration, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        let service = service
        node.onPeerLost { service.peerLost($0) }
        try node.start()
    }

    static func makeNode(_ name: String, _ poolBytes: Int) throws -> RackNode {
        try RackNode(
            device: RackDevice(),
            configuration: LiteConfiguration(
                name: name, listen: FabricAddress(host: "127.0.0.1", port: 0), poolBytes: poolBytes))
    }

    /// Runs `body` with a peer; whoever it is, it is closed afterwards.
    func withPeer<Value>(_ body: (MemoryPeer) throws -> Value) throws -> Value {
        let peer = try MemoryPeer(node.address)
        defer { peer.node.close() }
        return try body(peer)
    }

    func close() {
        node.close()
        service.stop()
    }

    /// Whether that many bytes are in use within ten seconds: a broken connection is noticed by another thread.
    func uses(_ bytes: Int) -> Bool {
        let deadline = Deadline.after(.seconds(10))
        while service.usedBytes != UInt64(bytes) {
            if deadline.hasPassed { return false }
            usleep(1000)
        }
        return true
    }
}

/// Somebody who calls the memory component.
private struct MemoryPeer {
    let node: RackNode
    let memory: LitePeer

    init(_ address: FabricAddress) throws {
        node = try MemoryLab.makeNode("processor0", RemoteChunk.bytes)
        try node.start()
        memory = try node.connect(to: address, until: .after(.seconds(10)))
    }

    func reserve(_ count: UInt32, program: UInt64 = 1) -> (status: Status, response: ChunkList?) {
        let request = ProcessorMemoryReserve(program: ProgramID(rawValue: program), count: count)
        return node.call(memory, RackFunction.reserveChunks, request, until: .after(.seconds(10)))
    }

    func release(_ chunks: [UInt32], program: UInt64 = 1) -> Status {
        let request = ChunkList(program: ProgramID(rawValue: program), chunks: chunks)
        return node.call(
            memory, RackFunction.releaseChunks, request, answer: Acknowledgement.self, until: .after(.seconds(10))
        ).status
    }

    func releaseOwner(processor: UInt64, program: UInt64) -> Status {
        let request = MemoryReleaseOwner(
            processor: NodeID(rawValue: processor), program: ProgramID(rawValue: program))
        return node.call(
            memory, RackFunction.releaseOwner, request, answer: Acknowledgement.self, until: .after(.seconds(10))
        ).status
    }

    /// Moves the node's pool, one chunk, to or from a remote one.
    func move(_ chunk: UInt32, write isWrite: Bool) -> Status {
        let piece = Transfer(
            local: node.pool.baseAddress!, remoteOffset: UInt64(chunk) * UInt64(RemoteChunk.bytes),
            count: RemoteChunk.bytes)
        return withUnsafePointer(to: piece) {
            let pieces = UnsafeBufferPointer(start: $0, count: 1)
            return isWrite
                ? node.write(memory, pieces, until: .after(.seconds(10)))
                : node.read(memory, pieces, until: .after(.seconds(10)))
        }
    }

    var isZero: Bool {
        let start = node.pool.baseAddress!
        return start.load(as: UInt8.self) == 0 && memcmp(start, start + 1, RemoteChunk.bytes - 1) == 0
    }
}

@Suite(.serialized) struct MemoryServiceTests {
    @Test func chunksAreReservedWrittenReadAndReadAsZeroAgain() throws {
        let lab = try MemoryLab(chunks: 4)
        defer { lab.close() }
        try lab.withPeer { peer in
            for _ in 0..<3 {
                let chunks = try #require(peer.reserve(4).response?.chunks)
                #expect(!chunks.isEmpty)
                for chunk in chunks {
                    #expect(peer.move(chunk, write: false).isOK)
                    #expect(peer.isZero, "old bytes were handed out")
                    memset(peer.node.pool.baseAddress!, 0x5A, RemoteChunk.bytes)
                    #expect(peer.move(chunk, write: true).isOK)
                    memset(peer.node.pool.baseAddress!, 0, RemoteChunk.bytes)
                    #expect(peer.move(chunk, write: false).isOK)
                    #expect(peer.node.pool.allSatisfy { $0 == 0x5A })
                }
                #expect(peer.release(chunks).isOK)
            }
            #expect(lab.service.usedBytes == 0)
        }
    }

    @Test func aFullPoolSaysSo() throws {
        let lab = try MemoryLab(chunks: 3)
        defer { lab.close() }
        try lab.withPeer { peer in
            #expect(peer.reserve(4096).response?.chunks == [0, 1, 2])
            #expect(peer.reserve(1).status == .noSpace)
            #expect(lab.service.usedBytes == lab.service.capacityBytes)
        }
    }

    @Test func ownersAreChecked() throws {
        let lab = try MemoryLab(chunks: 8)
        defer { lab.close() }
        try lab.withPeer { ada in
            try lab.withPeer { bob in
                #expect(ada.reserve(2, program: 1).response?.chunks == [0, 1])
                #expect(bob.reserve(2, program: 1).response?.chunks == [2, 3])
                #expect(ada.reserve(1, program: 0).status == .malformed)
                #expect(bob.release([0]) == .accessRefused)
                #expect(ada.release([0], program: 2) == .accessRefused)
                #expect(ada.release([8]) == .malformed)
                #expect(ada.release([4]) == .accessRefused)
                #expect(bob.releaseOwner(processor: ada.node.id.rawValue, program: 0) == .accessRefused)
                #expect(bob.releaseOwner(processor: ada.node.id.rawValue, program: 1) == .accessRefused)
                #expect(bob.releaseOwner(processor: 0, program: 0) == .malformed)
                #expect(lab.service.usedBytes == UInt64(4 * RemoteChunk.bytes))
                // A program of that number on the other processor is another program.
                #expect(bob.releaseOwner(processor: 0, program: 1).isOK)
                #expect(bob.releaseOwner(processor: 0, program: 1).isOK, "it is idempotent")
                #expect(lab.service.usedBytes == UInt64(2 * RemoteChunk.bytes))
                #expect(ada.release([0, 1]).isOK)
            }
        }
    }

    @Test func aProcessorsMemoryGoesWithItsConnection() throws {
        let lab = try MemoryLab(chunks: 8)
        defer { lab.close() }
        try lab.withPeer { survivor in
            #expect(survivor.reserve(1).response?.chunks == [0])
            try lab.withPeer { peer in
                #expect(peer.reserve(3, program: 1).status.isOK && peer.reserve(3, program: 2).status.isOK)
                memset(peer.node.pool.baseAddress!, 0x5A, RemoteChunk.bytes)
                #expect(peer.move(1, write: true).isOK)
            }
            #expect(lab.uses(RemoteChunk.bytes))
            let chunks = try #require(survivor.reserve(7).response?.chunks)
            for chunk in chunks {
                #expect(survivor.move(chunk, write: false).isOK)
                #expect(survivor.isZero)
            }
        }
    }

    @Test func theManagerReleasesAndFencesALostProcessor() throws {
        let lab = try MemoryLab(chunks: 8)
        defer { lab.close() }
        try lab.withPeer { manager in
            try lab.withPeer { processor in
                let lost = processor.node.id.rawValue
                #expect(processor.reserve(3).status.isOK)
                #expect(manager.releaseOwner(processor: lost, program: 0) == .accessRefused, "nobody knows it yet")
                lab.service.managerChanged(to: manager.node.id)
                #expect(manager.releaseOwner(processor: lost, program: 0).isOK)
                #expect(lab.service.usedBytes == 0)
                #expect(processor.move(0, write: true) == .peerLost, "a lost processor can still write")
                #expect(processor.reserve(1).status == .peerLost)
            }
        }
    }

    @Test func prefaultTakesAndKeepsItsMemory() throws {
        var configuration = MemoryServiceConfiguration()
        configuration.prefault = true
        let lab = try MemoryLab(chunks: 16, configuration)
        defer { lab.close() }
        var resident = [UInt8](repeating: 0, count: 16 * RemoteChunk.pages)
        func isAllThere() -> Bool {
            mincore(lab.node.pool.baseAddress!, lab.node.pool.count, &resident) == 0
                && resident.allSatisfy { $0 & 1 == 1 }
        }
        #expect(isAllThere())
        try lab.withPeer { peer in
            let chunks = try #require(peer.reserve(16).response?.chunks)
            #expect(peer.release(chunks).isOK)
            #expect(peer.reserve(16).status.isOK)
        }
        #expect(isAllThere())
    }

    @Test func aPoolWithoutRoomForAChunkIsRefused() throws {
        let node = try MemoryLab.makeNode("memory0", 4096)
        defer { node.close() }
        #expect(throws: MemoryServiceError.self) {
            _ = try MemoryService(
                node: node, configuration: MemoryServiceConfiguration(),
                logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        }
    }
}
