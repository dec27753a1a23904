import Glibc
import Kernel
import Synchronization

extension MountThread {
    /// What the kernel always opens a core file with.
    static let coreFlags = O_CREAT | O_EXCL | O_NOFOLLOW

    /// Tells of a thread that makes a file because its process dumps its core, and waits for whoever wants to know.
    func prepareCore(_ thread: Int32) {
        guard let process = dumpingProcess(thread) else { return }
        defer { mount.coresBegun.subtract(1, ordering: .relaxed) }
        if mount.coresBegun.add(1, ordering: .relaxed).newValue >= mount.threadCount {
            mount.logger.warning("a core file will lack pages: too many are made at a time")
            return
        }
        mount.coreBegins(process)
    }

    /// The process of a thread whose core is being dumped (proc(5), CoreDumping), else nil.
    private func dumpingProcess(_ thread: Int32) -> Int32? {
        let file = Glibc.open("/proc/\(thread)/status", O_RDONLY | O_CLOEXEC)
        if file < 0 { return nil }
        let status = Descriptor(taking: file)
        let text = withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 4096) { buffer in
            let count = Glibc.read(status.raw, buffer.baseAddress!, buffer.count)
            return String(decoding: buffer[..<max(0, count)], as: UTF8.self)
        }
        if !text.contains("CoreDumping:\t1\n") { return nil }
        for line in text.split(separator: "\n") where line.hasPrefix("Tgid:") {
            return Int32(line.dropFirst(5).drop { $0 == "\t" || $0 == " " })
        }
        return nil
    }
}
