import Glibc
import Kernel

/// The same work in the native tree and in the mounted one, in one run: microseconds or megabytes per second, and the
/// ratio.
struct StorageBenchmark {
    let native: String
    let mounted: String
    private let bulkBytes = 256 << 20
    private let fileCount = 2000

    func run() throws {
        print("work".padded(34), "native".aligned(12), "mounted".aligned(12), "ratio".aligned(8), separator: "")
        defer { for root in [native, mounted] { clean(root) } }
        clean(native)
        // A pass over each tree by itself: the native one must not find what the mounted one left in the page cache
        // colder.
        let nativeRows = try measure(native)
        clean(native)
        let mountedRows = try measure(mounted)
        for (left, right) in zip(nativeRows, mountedRows) {
            let ratio = left.isRate ? left.value / right.value : right.value / left.value
            let unit = left.isRate ? " MB/s" : " us"
            print(
                left.name.padded(34), (left.value.text + unit).aligned(12), (right.value.text + unit).aligned(12),
                (ratio.text + "x").aligned(8), separator: "")
        }
    }

    private struct Row {
        var name: String
        var value: Double
        var isRate = false
    }

    private func measure(_ root: String) throws -> [Row] {
        let base = root + "/lego-bench"
        try check("mkdir", mkdir(base, 0o755))
        var rows: [Row] = []
        let block = UnsafeMutableRawPointer.allocate(byteCount: 1 << 20, alignment: 4096)
        defer { block.deallocate() }
        memset(block, 0x5a, 1 << 20)
        rows.append(
            try each("create, write 4 KiB, close", fileCount) { index in
                let file = try open(base + "/f\(index)", O_CREAT | O_WRONLY)
                try check("write", Int32(write(file, block, 4096)))
                close(file)
            })
        rows.append(
            try each("open, read 4 KiB, close", fileCount) { index in
                let file = try open(base + "/f\(index)", O_RDONLY)
                try check("read", Int32(read(file, block, 4096)))
                close(file)
            })
        rows.append(
            try each("the same files again", fileCount) { index in
                let file = try open(base + "/f\(index)", O_RDONLY)
                try check("read", Int32(read(file, block, 4096)))
                close(file)
            })
        rows.append(
            try each("stat of one file", fileCount * 10) { _ in
                var status = stat()
                try check("stat", stat(base + "/f0", &status))
            })
        rows.append(
            try each("stat of an absent name, each new", fileCount) { index in
                var status = stat()
                _ = stat(base + "/absent\(index)", &status)
            })
        rows.append(try list(base))
        rows += try bulk(base + "/bulk", block)
        rows.append(try each("unlink", fileCount) { try check("unlink", unlink(base + "/f\($0)")) })
        try check("unlink", unlink(base + "/bulk"))
        return rows
    }

    private func bulk(_ path: String, _ block: UnsafeMutableRawPointer) throws -> [Row] {
        var rows: [Row] = []
        let pieces = bulkBytes >> 20
        rows.append(
            try rate("sequential write, 1 MiB") {
                let file = try open(path, O_CREAT | O_WRONLY)
                for _ in 0..<pieces { try check("write", Int32(write(file, block, 1 << 20))) }
                close(file)
            })
        rows.append(
            try rate("sequential read, 128 KiB, uncached") {
                let file = try open(path, O_RDONLY)
                posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED)
                for _ in 0..<pieces * 8 { try check("read", Int32(read(file, block, 128 << 10))) }
                close(file)
            })
        rows.append(
            try rate("sequential read, 128 KiB, again") {
                let file = try open(path, O_RDONLY)
                for _ in 0..<pieces * 8 { try check("read", Int32(read(file, block, 128 << 10))) }
                close(file)
            })
        let file = try open(path, O_RDWR)
        defer { close(file) }
        posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED)
        posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM)
        var place: UInt64 = 88_172_645_463_325_252
        rows.append(
            try each("random read, 4 KiB", fileCount) { _ in
                try check("pread", Int32(pread(file, block, 4096, next(&place))))
            })
        rows.append(
            try each("random write, 4 KiB", fileCount) { _ in
                try check("pwrite", Int32(pwrite(file, block, 4096, next(&place))))
            })
        rows.append(
            try each("write 4 KiB and fsync", 50) { _ in
                try check("pwrite", Int32(pwrite(file, block, 4096, next(&place))))
                try check("fsync", fsync(file))
            })
        return rows
    }

    private func next(_ state: inout UInt64) -> off_t {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return off_t(state % UInt64(bulkBytes / 4096)) * 4096
    }

    private func list(_ path: String) throws -> Row {
        try each("list and stat \(fileCount) files, per file", fileCount) { index in
            if index > 0 { return }
            guard let directory = opendir(path) else { throw KernelError("opendir") }
            defer { closedir(directory) }
            while let entry = readdir(directory) {
                var status = stat()
                withUnsafePointer(to: &entry.pointee.d_name) { name in
                    _ = fstatat(
                        dirfd(directory), UnsafeRawPointer(name).assumingMemoryBound(to: CChar.self), &status,
                        AT_SYMLINK_NOFOLLOW)
                }
            }
        }
    }

    private func each(_ name: String, _ count: Int, _ body: (Int) throws -> Void) throws -> Row {
        let start = monotonicNanoseconds()
        for index in 0..<count { try body(index) }
        return Row(name: name, value: Double(monotonicNanoseconds() - start) / 1000 / Double(count))
    }

    private func rate(_ name: String, _ body: () throws -> Void) throws -> Row {
        let start = monotonicNanoseconds()
        try body()
        let seconds = Double(monotonicNanoseconds() - start) / 1e9
        return Row(name: name, value: Double(bulkBytes) / 1e6 / seconds, isRate: true)
    }

    private func open(_ path: String, _ flags: Int32) throws -> Int32 {
        let file = Glibc.open(path, flags | O_CLOEXEC, 0o644)
        if file < 0 { throw KernelError("open \(path)") }
        return file
    }

    private func check(_ call: String, _ result: Int32) throws {
        if result < 0 { throw KernelError(call) }
    }

    /// Removes what an earlier run that was killed has left.
    private func clean(_ root: String) {
        let base = root + "/lego-bench"
        for index in 0..<fileCount { unlink(base + "/f\(index)") }
        unlink(base + "/bulk")
        rmdir(base)
    }
}

extension Double {
    fileprivate var text: String {
        let tenths = Int((self * 10).rounded())
        return "\(tenths / 10).\(tenths % 10)"
    }
}

extension String {
    fileprivate func padded(_ width: Int) -> String { self + String(repeating: " ", count: max(0, width - count)) }
    fileprivate func aligned(_ width: Int) -> String { String(repeating: " ", count: max(0, width - count)) + self }
}
