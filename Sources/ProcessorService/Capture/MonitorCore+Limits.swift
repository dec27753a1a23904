import CAgent
import CLinux
import Glibc
import Kernel

/// Limits of memory.
extension MonitorCore {
    /// The agent maps memory for the program, but is a process of its own: it takes the limits that the caller has now,
    /// with what is the agent's own added. It sets them itself, because to set those of another user's process takes a
    /// right that a processor may not have.
    func lendLimits(_ space: AddressSpace, _ thread: Int32) {
        guard limitsChanged, let agent = space.agent else { return }
        let own = UInt64(LEGO_AGENT_FILE_BYTES) + Page.bytes * (1 + UInt64(LEGO_AGENT_BATCH))
        for (resource, name, extra) in [
            (LEGO_LIMIT_ADDRESS_SPACE, "Max address space", own), (LEGO_LIMIT_DATA, "Max data size", own),
            (LEGO_LIMIT_LOCKED, "Max locked memory", 0),
        ] {
            guard let limit = ProcessFiles.limit(thread, name), let had = ProcessFiles.limit(agent.process, name) else {
                continue
            }
            let (sum, isEndless) = limit.soft.addingReportingOverflow(extra)
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
