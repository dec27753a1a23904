// Processors speak to memory components: whole chunks are reserved and released; their bytes move one-sided.

/// The unit in which remote memory is reserved.
public enum RemoteChunk {
    /// 64 KiB: 16 pages, one READ of a prefetch window.
    public static let bytes = 64 << 10
    public static let pages = 16
}

/// Reserves chunks for a program. Answered by `MemoryProcessorReserved` with at least one and at most `count` chunks, zeroed;
/// `noSpace` when there is none.
public struct ProcessorMemoryReserve: WireMessage, Equatable {
    public var program: ProgramID
    public var count: UInt32

    public init(program: ProgramID, count: UInt32) {
        self.program = program
        self.count = count
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(program.rawValue)
        writer.write(count)
    }

    public init?(from reader: inout WireReader) {
        program = ProgramID(rawValue: reader.read())
        count = reader.read()
        if !reader.isValid || count == 0 || count > 4096 { return nil }
    }
}

/// Chunk numbers: the chunk's offset in the component's pool is `number * RemoteChunk.bytes`. Also the body of a release.
public struct ChunkList: WireMessage, Equatable {
    public var program: ProgramID
    public var chunks: [UInt32]

    public init(program: ProgramID, chunks: [UInt32]) {
        self.program = program
        self.chunks = chunks
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(program.rawValue)
        writer.write(UInt32(truncatingIfNeeded: chunks.count))
        for chunk in chunks { writer.write(chunk) }
    }

    public init?(from reader: inout WireReader) {
        program = ProgramID(rawValue: reader.read())
        let count = Int(reader.read(UInt32.self))
        if count > 4096 { return nil }
        chunks = []
        chunks.reserveCapacity(count)
        for _ in 0..<count { chunks.append(reader.read()) }
        if !reader.isValid { return nil }
    }
}

/// Releases all chunks of one program (`program` not 0), or of all programs of a processor that was lost (`processor` not 0).
/// A processor may name only itself; the manager any. Idempotent. Answered by `Acknowledgement`.
public struct MemoryReleaseOwner: WireMessage, Equatable {
    public var processor: NodeID
    public var program: ProgramID

    public init(processor: NodeID, program: ProgramID) {
        self.processor = processor
        self.program = program
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(processor.rawValue)
        writer.write(program.rawValue)
    }

    public init?(from reader: inout WireReader) {
        processor = NodeID(rawValue: reader.read())
        program = ProgramID(rawValue: reader.read())
        if !reader.isValid { return nil }
    }
}
