import CLinux
import Glibc
import Kernel

/// Whether a pool lies in huge pages of 2 MiB, of which a walk through memory needs fewer translations.
public enum HugePages: String, Sendable, CaseIterable {
    /// Ordinary pages.
    case never
    /// Those that the host keeps for such use (vm.nr_hugepages) where enough are free; else ordinary pages that the
    /// kernel may join where it does that for shared memory (shmem_enabled in /sys/kernel/mm/transparent_hugepage).
    case automatic = "auto"
    /// Those that the host keeps, or nothing.
    case always

    static let bytes = 2 << 20

    static func rounded(_ bytes: Int) -> Int { (bytes + Self.bytes - 1) & ~(Self.bytes - 1) }

    /// A file of huge pages, all of them set aside; nil where `auto` has to do without. Throws `invalid` where `always`
    /// cannot be had.
    func makeFile(bytes: Int) throws(FabricError) -> MemoryFile? {
        if self == .never { return nil }
        let rounded = Self.rounded(bytes)
        let reason: KernelError
        do throws(KernelError) {
            let descriptor = try Descriptor(
                checking: "memfd_create", lego_memfd_create_huge("lego-pool", UInt64(rounded)))
            return try MemoryFile(mapping: descriptor, bytes: rounded)
        } catch {
            reason = error
        }
        if self == .automatic { return nil }
        throw .invalid(
            "a pool of huge pages needs \(rounded / Self.bytes) of 2 MiB, and this host has \(Self.free) free "
                + "(\(reason)): raise vm.nr_hugepages, or let pool.huge-pages be auto")
    }

    /// Huge pages of 2 MiB that are neither used nor promised.
    static var free: Int {
        func number(_ name: String) -> Int {
            let raw = open("/sys/kernel/mm/hugepages/hugepages-2048kB/\(name)", O_RDONLY | O_CLOEXEC)
            if raw < 0 { return 0 }
            let file = Descriptor(taking: raw)
            var text = [UInt8](repeating: 0, count: 32)
            let count = read(file.raw, &text, text.count)
            return text.prefix(max(0, count)).reduce(0) { (48...57).contains($1) ? $0 * 10 + Int($1) - 48 : $0 }
        }
        return max(0, number("free_hugepages") - number("resv_hugepages"))
    }
}
