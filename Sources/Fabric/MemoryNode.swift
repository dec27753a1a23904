import CNuma
import Glibc
import Kernel

/// Placement of memory on a NUMA node (numa(3)).
public enum MemoryNode {
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

    /// How many nodes the host has; 1 where it does not say.
    public static var count: Int { numa_available() < 0 ? 1 : max(1, Int(numa_max_node()) + 1) }

    /// The node that an adapter is attached to, as the system tells; nil when it has none or does not say. Without a
    /// name, that of the host's only adapter.
    public static func ofAdapter(_ name: String) -> Int? {
        let directory = "/sys/class/infiniband"
        var name = name
        if name.isEmpty {
            let names = entries(of: directory)
            guard names.count == 1 else { return nil }
            name = names[0]
        }
        let raw = open("\(directory)/\(name)/device/numa_node", O_RDONLY | O_CLOEXEC)
        if raw < 0 { return nil }
        defer { close(raw) }
        var text = [UInt8](repeating: 0, count: 16)
        let count = read(raw, &text, text.count)
        let line = String(decoding: text.prefix(max(0, count)), as: UTF8.self).split(separator: "\n").first ?? ""
        return Int(line).flatMap { $0 >= 0 ? $0 : nil }
    }

    private static func entries(of path: String) -> [String] {
        guard let directory = opendir(path) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if !name.hasPrefix(".") { names.append(name) }
        }
        return names
    }

    /// Keeps the calling thread, and those that it starts from now on, on the processors of a node.
    public static func run(on node: Int) throws(FabricError) {
        guard (0..<count).contains(node) else {
            throw .invalid("memory node \(node) is out of range: 0 to \(count - 1)")
        }
        if numa_available() >= 0, numa_run_on_node(Int32(node)) < 0 { throw .system(KernelError("numa_run_on_node")) }
    }
}
