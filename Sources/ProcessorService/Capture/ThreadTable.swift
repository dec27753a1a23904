/// Remembers which process a thread belongs to, so that a trapped call need not ask proc(5). Direct-mapped; owned by
/// the monitor thread.
struct ThreadTable {
    private struct Entry {
        var thread: Int32 = 0
        var process: Int32 = 0
        var identity: UInt64 = 0
    }
    private var entries = [Entry](repeating: Entry(), count: 1024)

    /// The process of a thread of the address space named, or nil when it is not known.
    func process(of thread: Int32, in identity: UInt64) -> Int32? {
        let entry = entries[Int(thread) & 1023]
        return entry.thread == thread && entry.identity == identity ? entry.process : nil
    }

    mutating func remember(_ thread: Int32, process: Int32, in identity: UInt64) {
        entries[Int(thread) & 1023] = Entry(thread: thread, process: process, identity: identity)
    }
}
