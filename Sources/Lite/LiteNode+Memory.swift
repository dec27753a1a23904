import Fabric
import Kernel
import Wire

/// The local end of transfers: plain data, valid as long as what it describes is registered.
struct LocalMemory {
    let base: UnsafeMutableRawPointer
    let count: Int
    let key: UInt32
}

/// Memory beside a node's pool that its transfers may read from and write to; closed to peers. It is deregistered with
/// the last reference, which waits for what is under way there.
public final class LiteMemory: @unchecked Sendable {
    let local: LocalMemory
    /// The node that it is registered with.
    let owner: ObjectIdentifier
    private let region: any MemoryRegion

    init(_ region: any MemoryRegion, owner: ObjectIdentifier) {
        self.region = region
        self.owner = owner
        local = LocalMemory(base: region.base, count: region.count, key: region.localKey)
    }

    deinit { region.deregister() }
}

extension LiteNode {
    /// Registers memory of the caller, who keeps it mapped as long as the answer lives. Costs what the adapter takes to
    /// pin it; a device has a few thousand regions, see its error.
    public func register(_ memory: UnsafeMutableRawBufferPointer) throws(LiteError) -> LiteMemory {
        do throws(FabricError) {
            return LiteMemory(try device.register(memory, access: []), owner: ObjectIdentifier(self))
        } catch { throw .fabric(error) }
    }

    /// As `read` into the pool, but into registered memory.
    @specialized(where Device == HybridDevice)
    public func read(
        _ peer: LitePeer, into memory: LiteMemory, _ piece: Transfer, on pairs: TransferPairs = .common,
        until deadline: Deadline
    ) -> Status {
        move(.read, .read, peer, memory, piece, on: pairs, until: deadline)
    }

    /// As `write` from the pool, but from registered memory.
    @specialized(where Device == HybridDevice)
    public func write(
        _ peer: LitePeer, from memory: LiteMemory, _ piece: Transfer, on pairs: TransferPairs = .common,
        until deadline: Deadline
    ) -> Status {
        move(.write, .write, peer, memory, piece, on: pairs, until: deadline)
    }

    @inline(__always)
    private func move(
        _ opcode: WorkOpcode, _ right: RemoteAccess, _ peer: LitePeer, _ memory: LiteMemory, _ piece: Transfer,
        on pairs: TransferPairs, until deadline: Deadline
    ) -> Status {
        if memory.owner != ObjectIdentifier(self) { return .accessRefused }
        return withUnsafePointer(to: piece) { pointer in
            transfer(
                opcode, right, peer, UnsafeBufferPointer(start: pointer, count: 1), memory.local, on: pairs,
                until: deadline)
        }
    }
}
