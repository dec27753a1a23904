import Synchronization

/// How much memory the rack has and how much of it is in use, as the manager said last. Any thread.
public final class RackMemory: Sendable {
    let totalBytes = Atomic<UInt64>(0)
    let usedBytes = Atomic<UInt64>(0)

    public init() {}

    public func set(total: UInt64, used: UInt64) {
        totalBytes.store(total, ordering: .relaxed)
        usedBytes.store(min(used, total), ordering: .relaxed)
    }
}

/// The memory that a program sees: the rack's, or its quota where that is less. Any thread.
struct MemoryFigures: Sendable {
    let rack: RackMemory
    /// 0: no limit.
    var quotaBytes: UInt64
    /// Bytes of the program's own.
    var ownBytes: @Sendable () -> UInt64

    var totalBytes: UInt64 {
        let total = rack.totalBytes.load(ordering: .relaxed)
        return quotaBytes > 0 && quotaBytes < total ? quotaBytes : total
    }

    var freeBytes: UInt64 {
        let total = rack.totalBytes.load(ordering: .relaxed)
        let free = total - min(total, rack.usedBytes.load(ordering: .relaxed))
        if quotaBytes == 0 || quotaBytes >= total { return free }
        return min(free, quotaBytes - min(quotaBytes, ownBytes()))
    }

    /// As proc_meminfo(5) has it. What belongs to the host's kernel is not the program's, and 0.
    var text: String {
        let total = totalBytes >> 10
        let free = min(total, freeBytes >> 10)
        let used = total - free
        let values: [(String, UInt64)] = [
            ("MemTotal", total), ("MemFree", free), ("MemAvailable", free), ("Buffers", 0), ("Cached", 0),
            ("SwapCached", 0), ("Active", used), ("Inactive", 0), ("Active(anon)", used), ("Inactive(anon)", 0),
            ("Active(file)", 0), ("Inactive(file)", 0), ("Unevictable", 0), ("Mlocked", 0), ("SwapTotal", 0),
            ("SwapFree", 0), ("Dirty", 0), ("Writeback", 0), ("AnonPages", used), ("Mapped", 0), ("Shmem", 0),
            ("KReclaimable", 0), ("Slab", 0), ("SReclaimable", 0), ("SUnreclaim", 0), ("KernelStack", 0),
            ("PageTables", 0), ("NFS_Unstable", 0), ("Bounce", 0), ("WritebackTmp", 0), ("CommitLimit", total),
            ("Committed_AS", used), ("VmallocTotal", 34_359_738_367), ("VmallocUsed", 0), ("VmallocChunk", 0),
            ("AnonHugePages", 0), ("ShmemHugePages", 0), ("ShmemPmdMapped", 0), ("FileHugePages", 0),
            ("FilePmdMapped", 0),
        ]
        var text = ""
        for (name, value) in values {
            let number = "\(value)"
            let width = 24 - name.utf8.count - 1
            text += name + ":" + String(repeating: " ", count: max(1, width - number.utf8.count)) + number + " kB\n"
        }
        return text + Self.hugePages
    }

    /// The lines on hugetlb pages, which are this host's: programs map them natively, and learn their size here.
    private static var hugePages: String {
        guard let lines = try? ProcessFiles.text("/proc/meminfo") else { return "" }
        return lines.split(separator: "\n").filter { $0.hasPrefix("Huge") }.map { $0 + "\n" }.joined()
    }
}
