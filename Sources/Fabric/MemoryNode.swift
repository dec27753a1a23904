import CNuma
import Glibc

/// Placement of memory on a NUMA node (numa(3)).
enum MemoryNode {
    /// Lets the pages of fresh memory come from `node`; nil leaves it to the kernel. Refuses a node that the host does
    /// not have.
    static func bind(_ base: UnsafeMutableRawPointer, bytes: Int, to node: Int?) throws(FabricError) {
        guard let node else { return }
        let highest = numa_available() < 0 ? 0 : Int(numa_max_node())
        guard (0...highest).contains(node) else {
            throw .invalid("memory node \(node) is out of range: 0 to \(highest)")
        }
        if numa_available() >= 0 { numa_tonode_memory(base, bytes, Int32(node)) }
    }
}
