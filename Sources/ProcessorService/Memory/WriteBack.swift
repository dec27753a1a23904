import Fabric
import Glibc
import Kernel
import Lite
import Wire

/// The way of evicted pages from an agent's pipe into remote memory: straight into the component's pool where it lies
/// on this host, else through a staging buffer and WRITEs. Nothing here allocates. Owned by whoever has the batch.
final class WriteBack {
    enum Outcome {
        case done
        /// A transfer to that component failed.
        case failed(memory: Int, Status)
        /// The pipe does not hold what the agent says.
        case wrongCount
    }

    private struct Place {
        // Kept alive by the store, which forgets no component.
        var peer: Unmanaged<LitePeer>
        var memory: Int
        var offset: UInt64
        var isWanted: Bool
        var isLent: Bool
    }

    private let node: RackNode
    /// `RemoteStore.window` pages of the node's pool.
    private let staging: UnsafeMutableRawPointer
    private let places: UnsafeMutablePointer<Place>
    private let vectors: UnsafeMutablePointer<iovec>
    private var pieces = PieceList(capacity: RemoteStore.window)
    private var count = 0

    init(node: RackNode, staging: UnsafeMutableRawPointer) {
        self.node = node
        self.staging = staging
        places = .allocate(capacity: RemoteStore.window)
        vectors = .allocate(capacity: RemoteStore.window)
    }

    deinit {
        places.deallocate()
        vectors.deallocate()
    }

    func removeAll() { count = 0 }

    /// The next page of the pipe goes to `offset` of a component's pool.
    func add(_ peer: LitePeer, memory: Int, offset: UInt64) {
        (places + count).initialize(
            to: Place(
                peer: .passUnretained(peer), memory: memory, offset: offset, isWanted: true, isLent: false))
        count += 1
    }

    /// That page is read and thrown away.
    func leaveOut(_ index: Int) { places[index].isWanted = false }

    /// Empties the pipe of its `length` pages, which must be the first that were added.
    func run(from pipe: borrowing Descriptor, length: Int) -> Outcome {
        if length == 0 { return .done }
        lend(length)
        let bytes = length * Int(Page.bytes)
        var read = 0
        repeat { read = readv(pipe.raw, vectors, Int32(length)) } while read < 0 && errno == EINTR
        for index in 0..<length where places[index].isLent {
            places[index].peer._withUnsafeGuaranteedRef { node.endAccess($0) }
        }
        return read == bytes ? transfer(length) : .wrongCount
    }

    private func lend(_ length: Int) {
        for index in 0..<length {
            var target = staging + index * Int(Page.bytes)
            if places[index].isWanted {
                let lent = places[index].peer._withUnsafeGuaranteedRef { peer in
                    node.beginAccess(peer, remoteOffset: places[index].offset, count: Int(Page.bytes), .write)
                }
                if let lent { (target, places[index].isLent) = (lent, true) }
            }
            vectors[index] = iovec(iov_base: target, iov_len: Int(Page.bytes))
        }
    }

    /// Writes what was staged: one WRITE per contiguous piece.
    private func transfer(_ length: Int) -> Outcome {
        var first = 0
        while first < length {
            if places[first].isLent || !places[first].isWanted {
                first += 1
                continue
            }
            let memory = places[first].memory
            pieces.removeAll()
            var index = first
            while index < length, places[index].memory == memory, !places[index].isLent, places[index].isWanted {
                pieces.add(staging + index * Int(Page.bytes), places[index].offset)
                index += 1
            }
            let status = node.write(
                places[first].peer.takeUnretainedValue(), pieces.buffer, until: .after(RemoteStore.patience))
            if !status.isOK { return .failed(memory: memory, status) }
            first = index
        }
        return .done
    }
}
