import Fabric
import Glibc
import Kernel
import Wire

/// What READs over a link took.
public struct LinkMeasurement: Sendable {
    /// Of one READ of 64 bytes after another, the median.
    public var latency_ns: UInt64
    /// For each size asked for, several under way at a time; 0 where the peer's pool is smaller.
    public var bytesPerSecond: [UInt64]
}

extension LiteNode {
    /// Measures the link to a peer by READs from the start of its pool, as the perftest programs of an adapter do. Takes
    /// some tenths of a second of this thread's time and a queue pair's turn among others; allocates memory of the
    /// largest size for as long. Status: `accessRefused` where the peer's pool cannot be read.
    public func measure(_ peer: LitePeer, sizes: [Int], until deadline: Deadline) -> (Status, LinkMeasurement?) {
        guard let link = link(of: peer) else { return (.peerLost, nil) }
        guard link.remotePoolAccess.contains(.read), link.remotePoolBytes >= 64 else { return (.accessRefused, nil) }
        let scratch: Device.Region
        do throws(FabricError) {
            scratch = try device.allocate(bytes: sizes.max() ?? 64, access: [])
        } catch {
            return (.noSpace, nil)
        }
        defer { scratch.deregister() }
        var measurement = LinkMeasurement(latency_ns: 0, bytesPerSecond: [])
        var samples: [UInt64] = []
        // The first READs map the peer's memory and warm the caches.
        for round in 0..<2200 {
            let start = monotonicNanoseconds()
            let status = read(peer, link, into: scratch, bytes: 64, requests: 1, until: deadline)
            if status != .ok { return (status, nil) }
            if round >= 200 { samples.append(monotonicNanoseconds() - start) }
        }
        measurement.latency_ns = samples.sorted()[samples.count / 2]
        for size in sizes {
            guard UInt64(size) <= link.remotePoolBytes else {
                measurement.bytesPerSecond.append(0)
                continue
            }
            let requests = 8
            var moved = 0
            let start = monotonicNanoseconds()
            var now = start
            while now - start < 100_000_000 {
                let status = read(peer, link, into: scratch, bytes: size, requests: requests, until: deadline)
                if status != .ok { return (status, nil) }
                moved += size * requests
                now = monotonicNanoseconds()
            }
            measurement.bytesPerSecond.append(UInt64(Double(moved) / Double(now - start) * 1e9))
        }
        return (.ok, measurement)
    }

    /// So many READs of the same bytes, all under way at once.
    private func read(
        _ peer: LitePeer, _ link: Link<Device>, into scratch: Device.Region, bytes: Int, requests: Int,
        until deadline: Deadline
    ) -> Status {
        transferDirectly(link, requests: requests, until: deadline) { elements, work in
            elements[0] = ScatterElement(address: scratch.base, count: bytes, localKey: scratch.localKey)
            work.remoteAddress = link.remotePoolAddress
            work.remoteKey = link.remotePoolKey
        }
    }
}
