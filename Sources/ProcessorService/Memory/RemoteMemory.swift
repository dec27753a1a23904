import Fabric
import Kernel
import Lite
import Logging
import Wire

/// The processor's way to memory components, shared by all programs: its node, the buffers in the node's pool, and whom
/// to ask where memory shall live. Any thread.
public final class RemoteMemory: Sendable {
    /// Asks the manager where a program's next region shall live; the components named have refused. May block for as
    /// long as a call takes.
    public typealias Place = @Sendable (ProgramID, [NodeID]) -> (Status, ManagerProcessorPlace?)

    let node: RackNode
    let buffers: PoolAllocator
    let place: Place
    let logger: Logger

    /// `buffers` hands out the node's pool, and is shared with whoever else transfers from it; without it the whole
    /// pool is taken for program memory.
    public init(node: RackNode, buffers: PoolAllocator? = nil, place: @escaping Place, logger: Logger) {
        self.node = node
        self.buffers = buffers ?? PoolAllocator(pool: node.pool)
        self.place = place
        self.logger = logger
    }
}
