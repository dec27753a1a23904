import CLinux
import Glibc
import Kernel
import Synchronization

/// What the parts of a soft device share. `SoftDevice` is its public face; regions, pairs and requests keep the context
/// alive.
///
/// Lock order: `state`, then a completion queue's walk lock, then a completion queue's producer lock. Nothing waits
/// under any.
final class SoftContext: @unchecked Sendable {
    private struct RegionRecord: @unchecked Sendable {
        /// Nil where peers must be served.
        var file: MemoryFile?
        var memory: UnsafeMutableRawBufferPointer
    }

    private struct State {
        var regions: [UInt32: RegionRecord] = [:]
        /// Pairs from their connection until both ends have flushed.
        var links: [UInt32: any PairLink] = [:]
        var peers: [InstanceID: WeakPeer] = [:]
        // Above the 24 bits that an adapter's numbers have.
        var nextNumber: UInt32 = 1 << 24
        var isClosed = false
    }

    private struct WeakPeer {
        weak var device: PeerDevice?
    }

    let configuration: SoftDeviceConfiguration
    let instance = InstanceID.random()
    let host: InstanceID
    let loop: EventLoop
    let table: RegionTable
    let acceptor: Acceptor
    let arrivals: Arrivals
    /// What peers are told that they may connect by, see `AcceptorGreeting`. Constant once the device listens.
    let offers: UInt16
    private let state = Mutex(State())

    /// `offers`: what else than the configuration's transports peers may connect by; `takesPairs`: whether they may
    /// by those at all.
    init(configuration: SoftDeviceConfiguration, offers: UInt16 = 0, takesPairs: Bool = true, arrivals: Arrivals)
        throws(FabricError)
    {
        self.configuration = configuration
        self.arrivals = arrivals
        acceptor = Acceptor(arrivals: arrivals)
        var own: UInt16 = configuration.transport != .tcp ? AcceptorGreeting.offersSharedMemory : 0
        if configuration.transport != .sharedMemory { own |= AcceptorGreeting.offersTCP }
        self.offers = offers | (takesPairs ? own : 0)
        host = try InstanceID.ofHost()
        do throws(KernelError) {
            loop = try EventLoop()
            table = try RegionTable()
        } catch {
            throw .system(error)
        }
    }

    /// Starts the device's thread. It holds the context until `close`.
    func start() throws(FabricError) {
        do throws(KernelError) {
            try loop.start(name: "lego-fabric") { [self] in tick() }
        } catch {
            throw .system(error)
        }
    }

    // MARK: Regions

    func addRegion(_ memory: UnsafeMutableRawBufferPointer, file: MemoryFile?, access: RemoteAccess)
        throws(FabricError) -> SoftRegion
    {
        guard let region = addRegion(memory, file: file, access: access, key: nil) else {
            throw .invalid("another memory region: a device has at most \(RegionEntry.slots_max), and none once closed")
        }
        return region
    }

    /// A region with a given key, or with any; nil when there is no place for it.
    func addRegion(_ memory: UnsafeMutableRawBufferPointer, file: MemoryFile?, access: RemoteAccess, key: UInt32?)
        -> SoftRegion?
    {
        let inserted = state.withLock { state -> UInt32? in
            if state.isClosed { return nil }
            guard
                let key = table.insert(
                    base: memory.baseAddress!, count: memory.count, access: access, isMappable: file != nil, key: key)
            else { return nil }
            state.regions[key] = RegionRecord(file: file, memory: memory)
            return key
        }
        return inserted.map { SoftRegion(context: self, memory: memory, file: file, key: $0) }
    }

    func deregister(_ key: UInt32) {
        let links = state.withLock { state -> [any PairLink]? in
            // Refused under the lock: a second caller finds the record and waits as well.
            guard state.regions[key] != nil else { return nil }
            table.refuse(key)
            return Array(state.links.values)
        }
        guard let links else { return }
        let deadline = Deadline.after(configuration.quietTimeout)
        for link in links { link.waitForAccesses(until: deadline) }
        let isFirst = state.withLock { state in
            guard state.regions.removeValue(forKey: key) != nil else { return false }
            table.retire(key)
            return true
        }
        if isFirst { for link in links { link.tellRegionGone(key) } }
    }

    /// The memory file of a region, for a peer on this host.
    func withRegionFile(_ key: UInt32, _ body: (Int32?) -> Void) {
        let file = state.withLock { $0.regions[key]?.file }
        body(file?.descriptor)
    }

    /// How many regions there are now, and their bytes.
    var registered: (regions: Int, bytes: Int) {
        state.withLock { state in (state.regions.count, state.regions.values.reduce(0) { $0 + $1.memory.count }) }
    }

    // MARK: Pairs

    /// A queue pair number: see `QueuePair.number`.
    func takeNumber() -> UInt32 {
        state.withLock { state in
            defer { state.nextNumber = state.nextNumber == .max ? 1 << 24 : state.nextNumber + 1 }
            return state.nextNumber
        }
    }

    /// The view of a peer device, shared by all pairs to it.
    func peer(_ instance: InstanceID, table: consuming Descriptor, wake: consuming Descriptor) throws(FabricError)
        -> PeerDevice
    {
        let made = try PeerDevice(instance: instance, table: table, wake: wake)
        return state.withLock { state in
            if let known = state.peers[instance]?.device { return known }
            state.peers[instance] = WeakPeer(device: made)
            state.peers = state.peers.filter { $0.value.device != nil }
            return made
        }
    }

    /// Watches a connected pair. False when the device is closed.
    func add(_ link: any PairLink) -> Bool {
        let isOpen = state.withLock { state in
            if state.isClosed { return false }
            state.links[link.pair.number] = link
            return true
        }
        if !isOpen { return false }
        if !link.watch() {
            forget(link)
            return false
        }
        return true
    }

    /// Both ends have flushed.
    func forget(_ link: any PairLink) { state.withLock { _ = $0.links.removeValue(forKey: link.pair.number) } }

    /// Lets the device's thread look after its pairs and their deadlines.
    func wake() { loop.wake() }

    /// After each wake-up of the device's thread: a peer may have made room, a pair may have been disconnected.
    private func tick() -> Deadline {
        let links = state.withLock { Array($0.links.values) }
        var earliest = acceptor.tick()
        for link in links {
            link.attend()
            earliest = min(earliest, link.pair.checkDeadline())
            earliest = min(earliest, link.checkPolls())
        }
        return earliest
    }

    /// Disconnects everything, and gives the peers a moment to end what they have under way.
    func close() {
        let links = state.withLock { state -> [any PairLink] in
            state.isClosed = true
            return Array(state.links.values)
        }
        acceptor.close(loop)
        for link in links { link.pair.breakConnection() }
        let deadline = Deadline.after(configuration.closeTimeout)
        for link in links { link.awaitEnd(until: deadline) }
        loop.stop()
        for link in links { link.pair.abandon() }
        state.withLock { $0.links = [:] }
    }
}
