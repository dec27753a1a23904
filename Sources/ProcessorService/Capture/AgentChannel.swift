import CAgent
import CLinux
import Kernel

/// The processor's end of the shared page through which one thread of an agent is asked, and of the pipe through which
/// it lets pages leave. Owned by whoever asks that thread: the monitor, or the background evictor while it has a batch.
///
/// What the page holds belongs to the program, which may write anything there at any time: results are checked by
/// whoever uses them, and nothing in it is used as an index or a length without a check.
final class AgentChannel {
    let page: UnsafeMutablePointer<lego_agent_page>
    /// A C array, which imports as a tuple.
    let operations: UnsafeMutablePointer<lego_agent_operation>
    private let requested: UnsafeMutablePointer<UInt32>
    private let finished: UnsafeMutablePointer<UInt32>
    private let begun: UnsafeMutablePointer<UInt32>
    private let agentSleeps: UnsafeMutablePointer<UInt32>
    private let processorSleeps: UnsafeMutablePointer<UInt32>
    /// The end to read from.
    let pipe: Descriptor
    /// The number of the last request.
    private var requests: UInt32 = 0

    /// The page at `offset` of the agent's memory, which must outlive this.
    init(_ memory: MemoryFile, offset: UInt64, pipe: consuming Descriptor) {
        self.pipe = pipe
        let base = memory.base + Int(offset)
        func field<Field>(_ path: KeyPath<lego_agent_page, Field>) -> UnsafeMutableRawPointer {
            base + MemoryLayout<lego_agent_page>.offset(of: path).unsafelyUnwrapped
        }
        page = base.assumingMemoryBound(to: lego_agent_page.self)
        operations = field(\.operations).assumingMemoryBound(to: lego_agent_operation.self)
        requested = field(\.requested).assumingMemoryBound(to: UInt32.self)
        finished = field(\.finished).assumingMemoryBound(to: UInt32.self)
        begun = field(\.begun).assumingMemoryBound(to: UInt32.self)
        agentSleeps = field(\.agent_sleeps).assumingMemoryBound(to: UInt32.self)
        processorSleeps = field(\.processor_sleeps).assumingMemoryBound(to: UInt32.self)
    }

    /// Posts what the page says.
    func post() {
        requests &+= 1
        lego_atomic_store_u32(requested, requests)
        lego_atomic_fence()
        if lego_atomic_load_u32(agentSleeps) != 0 { Futex.wake(requested) }
    }

    /// Posts an eviction: what the first `count` operations say, `moves` of which are moves.
    func postEviction(count: Int, moves: Int) {
        page.pointee.count = UInt32(count)
        page.pointee.moves = UInt32(moves)
        page.pointee.command = LEGO_AGENT_EVICT.rawValue
        post()
    }

    var isFinished: Bool { lego_atomic_load_u32(finished) == requests }

    /// Waits for the answer, for at most `nanoseconds`; answers whether it came.
    func waitFinished(nanoseconds: Int64, spins: Int) -> Bool {
        for _ in 0..<spins {
            if isFinished { return true }
            lego_spin_pause()
        }
        lego_atomic_store_u32(processorSleeps, 1)
        lego_atomic_fence()
        let seen = lego_atomic_load_u32(finished)
        if seen != requests { _ = lego_futex_wait(finished, seen, nanoseconds) }
        lego_atomic_store_u32(processorSleeps, 0)
        return isFinished
    }

    /// Whether the agent has done anything of the last request.
    var hasBegun: Bool { lego_atomic_load_u32(begun) == requests }
}
