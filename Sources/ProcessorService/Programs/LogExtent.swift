import Synchronization

/// How much of a log is there: written by the program's thread, read by whoever sends the log.
final class LogExtent: Sendable {
    /// Bytes at the beginning that have been dropped. Set before they vanish: what was read from an offset at or after
    /// this, looked at after the read, is what the program wrote.
    private let dropped = Atomic<Int>(0)

    var start: Int { dropped.load(ordering: .acquiring) }

    func drop(before offset: Int) { dropped.store(offset, ordering: .sequentiallyConsistent) }
}
