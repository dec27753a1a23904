import CRdmaCM
import CVerbs
import Glibc
import Kernel
import Synchronization

/// What the parts of a verbs device share: the adapter, its protection domain, and the table by which completions find
/// the queue pair that they belong to. Goes when the last region, queue and pair has gone.
///
/// Lock order: a completion queue's poll lock, then `state`. Nothing waits under either.
final class VerbsContext: @unchecked Sendable {
    private struct State {
        var freeLogs: [Int] = []
        var logCount = 0
    }

    /// Queue pairs of one device at a time.
    static let pairs_max = 1 << 15
    /// The largest message of a reliable connection (InfiniBand Architecture Specification, 9.7.7.1).
    static let messageBytes_max = 1 << 31

    let adapter: UnsafeMutablePointer<ibv_context>
    let domain: UnsafeMutablePointer<ibv_pd>
    let limits: ibv_device_attr
    let configuration: VerbsDeviceConfiguration
    private let list: UnsafeMutablePointer<UnsafeMutablePointer<ibv_context>?>
    /// The logs of the pairs by index. A slot is written under `state` while no poll can look at it: before its pair's
    /// first work request, and under the locks of both its completion queues.
    let logs: UnsafeMutablePointer<WorkLog?>
    private let state = Mutex(State())

    init(configuration: VerbsDeviceConfiguration) throws(FabricError) {
        self.configuration = configuration
        var count: Int32 = 0
        // The adapters as the connection manager has opened them: its identifiers belong to these contexts and no
        // others.
        guard let list = rdma_get_devices(&count) else {
            throw .noDevice("this host has none (rdma_get_devices: \(KernelError.text(errno)))")
        }
        let found: UnsafeMutablePointer<ibv_context>
        do throws(FabricError) {
            found = try Self.choose(UnsafeBufferPointer(start: list, count: Int(count)), configuration)
        } catch {
            rdma_free_devices(list)
            throw error
        }
        var limits = ibv_device_attr()
        guard ibv_query_device(found, &limits) == 0, let domain = ibv_alloc_pd(found) else {
            let reason = KernelError.text(errno)
            rdma_free_devices(list)
            throw .noDevice("the adapter gives no protection domain: \(reason)")
        }
        self.list = list
        self.limits = limits
        self.domain = domain
        adapter = found
        logs = .allocate(capacity: Self.pairs_max)
        logs.initialize(repeating: nil, count: Self.pairs_max)
    }

    deinit {
        logs.deinitialize(count: Self.pairs_max)
        logs.deallocate()
        ibv_dealloc_pd(domain)
        rdma_free_devices(list)
    }

    /// The adapter that has the configured address, else the configured name, else the first; with an active port.
    private static func choose(
        _ list: UnsafeBufferPointer<UnsafeMutablePointer<ibv_context>?>, _ configuration: VerbsDeviceConfiguration
    ) throws(FabricError) -> UnsafeMutablePointer<ibv_context> {
        let owner = try configuration.address.map { (address) throws(FabricError) in try adapter(of: address) }
        for case let adapter? in list {
            if let owner, owner != adapter { continue }
            if let name = configuration.deviceName, Self.name(of: adapter) != name { continue }
            var limits = ibv_device_attr()
            guard ibv_query_device(adapter, &limits) == 0, limits.phys_port_cnt > 0 else { continue }
            if (1...limits.phys_port_cnt).contains(where: { lego_verbs_port_is_active(adapter, $0) != 0 }) {
                return adapter
            }
        }
        let named = configuration.deviceName.map { " named \($0)" } ?? ""
        let placed = configuration.address.map { " with the address \($0)" } ?? ""
        throw .noDevice("none of \(list.count)\(named)\(placed) has an active port")
    }

    static func name(of adapter: UnsafeMutablePointer<ibv_context>) -> String? {
        ibv_get_device_name(adapter.pointee.device).map { String(cString: $0) }
    }

    /// The adapter whose network interface has this address, as the connection manager sees it.
    private static func adapter(of address: String) throws(FabricError) -> UnsafeMutablePointer<ibv_context> {
        var made: UnsafeMutablePointer<rdma_cm_id>?
        guard rdma_create_id(nil, &made, nil, RDMA_PS_TCP) == 0, let identifier = made else {
            throw .noDevice(
                "the kernel's connection manager does not answer (rdma_create_id: \(KernelError.text(errno)))")
        }
        defer { rdma_destroy_id(identifier) }
        let place = FabricAddress(host: address, port: 0)
        try Sockets.withAddresses(of: place, isPassive: true, { .noDevice("none has the address \(address): \($0)") }) {
            (name, _) throws(KernelError) in
            if rdma_bind_addr(identifier, UnsafeMutablePointer(mutating: name)) != 0 {
                throw KernelError("rdma_bind_addr")
            }
        }
        // Bound to no adapter: the loopback address, or all addresses.
        guard let adapter = identifier.pointee.verbs else { throw .noDevice("none has the address \(address)") }
        return adapter
    }

    // MARK: Logs

    /// A place for a new pair's log; nil when the device has too many pairs.
    func addLog(_ parameters: QueuePairParameters) -> WorkLog? {
        state.withLock { state in
            let index: Int
            if let free = state.freeLogs.popLast() {
                index = free
            } else if state.logCount < Self.pairs_max {
                index = state.logCount
                state.logCount += 1
            } else {
                return nil
            }
            let log = WorkLog(index: index, parameters)
            logs[index] = log
            return log
        }
    }

    /// Gives a log's place back. The caller holds the poll locks of its pair's completion queues.
    func removeLog(_ log: WorkLog) {
        state.withLock { state in
            logs[log.index] = nil
            state.freeLogs.append(log.index)
        }
    }
}

/// The habits of a `VerbsDevice`.
public struct VerbsDeviceConfiguration: Sendable {
    /// The adapter, e.g. `mlx5_0`; nil takes the one that has `address`, or the first with an active port.
    public var deviceName: String?
    /// The address of this host that connections come from. It decides the adapter, its port and the GID: the kernel's
    /// connection manager takes the GID of the interface that has the address, of type RoCE v2 where the adapter has
    /// one. nil leaves that to the way to each peer.
    public var address: String?
    /// Where `allocate` places memory; nil leaves it to the kernel.
    public var memoryNode: Int?

    public init(deviceName: String? = nil, address: String? = nil, memoryNode: Int? = nil) {
        self.deviceName = deviceName
        self.address = address
        self.memoryNode = memoryNode
    }
}
