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
        guard let found = Self.choose(list, Int(count), name: configuration.deviceName) else {
            rdma_free_devices(list)
            let wanted = configuration.deviceName.map { " named \($0)" } ?? ""
            throw .noDevice("none of \(count)\(wanted) has an active port")
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

    private static func choose(
        _ list: UnsafeMutablePointer<UnsafeMutablePointer<ibv_context>?>, _ count: Int, name: String?
    ) -> UnsafeMutablePointer<ibv_context>? {
        for index in 0..<count {
            guard let adapter = list[index] else { continue }
            if let name, ibv_get_device_name(adapter.pointee.device).map({ String(cString: $0) }) != name { continue }
            var limits = ibv_device_attr()
            guard ibv_query_device(adapter, &limits) == 0, limits.phys_port_cnt > 0 else { continue }
            if (1...limits.phys_port_cnt).contains(where: { lego_verbs_port_is_active(adapter, $0) != 0 }) {
                return adapter
            }
        }
        return nil
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
    /// The adapter, e.g. `mlx5_0`; nil takes the first with an active port.
    public var deviceName: String?
    /// Where `allocate` places memory; nil leaves it to the kernel.
    public var memoryNode: Int?

    public init(deviceName: String? = nil, memoryNode: Int? = nil) {
        self.deviceName = deviceName
        self.memoryNode = memoryNode
    }
}
