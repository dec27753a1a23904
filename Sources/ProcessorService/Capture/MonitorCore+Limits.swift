import CAgent
import CLinux
import Glibc
import Kernel

/// Limits of memory.
extension MonitorCore {
    /// What an agent maps for itself.
    private static let agentBytes = UInt64(LEGO_AGENT_FILE_BYTES) + Page.bytes * (1 + UInt64(LEGO_AGENT_BATCH))
    /// What the start of an agent can fail for, and what is enough for it. Nobody may have more descriptors than
    /// /proc/sys/fs/nr_open, which is a million where nobody has lowered it.
    private static let startLimits: [(resource: lego_limit, enough: UInt64)] = [
        (LEGO_LIMIT_ADDRESS_SPACE, .max), (LEGO_LIMIT_DATA, .max), (LEGO_LIMIT_PROCESSES, .max),
        (LEGO_LIMIT_DESCRIPTORS, 1 << 16),
    ]
    private static let limits = [LEGO_LIMIT_ADDRESS_SPACE, LEGO_LIMIT_DATA, LEGO_LIMIT_LOCKED]

    /// A process is about to change a limit. Those of other things than memory, which make(1) and gcc change, mean nothing here.
    func noteLimit(_ resource: UInt64) {
        if Self.limits.contains(where: { $0.rawValue == UInt32(truncatingIfNeeded: resource) }) { limitsChanged = true }
    }

    /// The agent maps memory for the program, but is a process of its own: it takes the limits that the caller has now,
    /// with what is the agent's own added. It sets them itself, because to set those of another user's process takes a
    /// right that a processor may not have. Cost, once some process has changed one: six system calls.
    func lendLimits(_ space: AddressSpace, _ thread: Int32) {
        guard limitsChanged, let agent = space.agent else { return }
        for resource in Self.limits {
            guard let limit = ProcessFiles.limit(thread, resource),
                let had = ProcessFiles.limit(agent.process, resource)
            else { continue }
            let (sum, isEndless) = limit.soft.addingReportingOverflow(
                resource == LEGO_LIMIT_LOCKED ? 0 : Self.agentBytes)
            let wanted = isEndless ? UInt64.max : sum
            if wanted == had.soft { continue }
            // Beyond its hard limit where its user may raise that, as the caller may have.
            if setLimit(space, agent, resource, soft: wanted, hard: max(wanted, had.hard)) == 0 { continue }
            _ = setLimit(space, agent, resource, soft: min(wanted, had.hard), hard: had.hard)
        }
    }

    /// Limits of a process that were raised for the moment.
    struct RaisedLimits {
        fileprivate var former: [(resource: lego_limit, soft: UInt64, hard: UInt64)] = []
        /// Whether an agent would take what the process needs for itself.
        fileprivate(set) var areTight = false
    }

    /// Makes room for an agent in a process that may be at its limits, until `putBack`: natively it needs none. Whoever
    /// changes a limit is trapped, and waits meanwhile. Beyond the hard limit, and for another user's process, this takes
    /// CAP_SYS_RESOURCE.
    func raiseLimits(_ process: Int32) -> RaisedLimits {
        var raised = RaisedLimits()
        for (resource, enough) in Self.startLimits {
            let isOfMemory = Self.limits.contains(resource)
            // Another user's limits may have to be read as text, which takes long.
            let asText = limitsChanged && isOfMemory
            guard let had = ProcessFiles.limit(process, resource, asText: asText), had.soft < enough else { continue }
            // The agent begins without it.
            if isOfMemory { limitsChanged = true }
            if lego_set_limit(process, resource, enough, max(enough, had.hard)) == 0
                || had.hard > had.soft && lego_set_limit(process, resource, min(enough, had.hard), had.hard) == 0
            {
                raised.former.append((resource, had.soft, had.hard))
            } else if isOfMemory && had.soft < Self.tightLimit {
                raised.areTight = true
            }
        }
        return raised
    }
    /// A process that may not have more is left to the kernel where its limits cannot be raised.
    private static let tightLimit: UInt64 = 8 << 20

    func putBack(_ raised: RaisedLimits, _ process: Int32) {
        for limit in raised.former { _ = lego_set_limit(process, limit.resource, limit.soft, limit.hard) }
    }

    private func setLimit(
        _ space: AddressSpace, _ agent: Agent, _ resource: lego_limit, soft: UInt64, hard: UInt64
    ) -> Int64 {
        let offset = MemoryLayout<lego_agent_page>.offset(of: \.name).unsafelyUnwrapped
        let place = UInt64(LEGO_AGENT_PAGE_OFFSET) + UInt64(offset)
        // struct rlimit; RLIM_INFINITY is the greatest number.
        agent.memory.base.storeBytes(of: soft, toByteOffset: Int(place), as: UInt64.self)
        agent.memory.base.storeBytes(of: hard, toByteOffset: Int(place) + 8, as: UInt64.self)
        return agentCall(
            space, SystemCall.prlimit64, 0, UInt64(resource.rawValue), UInt64(LEGO_AGENT_BASE) + place, 0)
    }
}
