import CAgent
import CLinux
import Glibc
import Kernel

/// Limits of memory.
extension MonitorCore {
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
        let own = UInt64(LEGO_AGENT_FILE_BYTES) + Page.bytes * (1 + UInt64(LEGO_AGENT_BATCH))
        for resource in Self.limits {
            guard let limit = ProcessFiles.limit(thread, resource),
                let had = ProcessFiles.limit(agent.process, resource)
            else { continue }
            let (sum, isEndless) = limit.soft.addingReportingOverflow(resource == LEGO_LIMIT_LOCKED ? 0 : own)
            let wanted = isEndless ? UInt64.max : sum
            if wanted == had.soft { continue }
            // Beyond its hard limit where its user may raise that, as the caller may have.
            if setLimit(space, agent, resource, soft: wanted, hard: max(wanted, had.hard)) == 0 { continue }
            _ = setLimit(space, agent, resource, soft: min(wanted, had.hard), hard: had.hard)
        }
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
