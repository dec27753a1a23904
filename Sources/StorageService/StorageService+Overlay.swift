import CLinux
import Glibc
import Kernel

/// Renewals of the overlays that did not help, because what they were to renew is in use.
struct OverlayRenewals {
    /// One that did not help at once shall be made before the next name is looked up.
    private var isOwed = false
    /// Names for which it did not help lately, by hash, and until when they are taken as the overlay has them: the client
    /// asks once more, and then shall get an answer.
    private var failures: [(name: Int, until: Deadline)] = []
    /// What is held for long is not tried again for each name: so many at a time.
    private static let failures_max = 8
    private static let pause: Duration = .milliseconds(100)

    mutating func takeOwed() -> Bool {
        defer { isOwed = false }
        return isOwed
    }

    mutating func mayHelp(_ name: Int) -> Bool {
        failures.removeAll { $0.until.hasPassed }
        return failures.count < Self.failures_max && !failures.contains { $0.name == name }
    }

    mutating func failed(_ name: Int) {
        failures.append((name, .after(Self.pause)))
        isOwed = true
    }
}

// Names, as the tree has them and the host below it. On workers.
extension StorageService {
    /// The status of a name in a directory: 0, or a negative error number. ESTALE, now and then, where the host has
    /// exchanged what is in use: the client then gives back what it has closed, its kernel walks the whole path again
    /// (path_openat, fs/namei.c), and if nobody holds it any more, it finds the new one. Else it finds the old one.
    func find(
        _ call: StorageCall, _ parent: Int32, _ name: UnsafePointer<CChar>, _ status: inout lego_file_status
    ) -> Int32 {
        guard let overlays = call.tree.overlays else { return lego_file_status(parent, name, &status) }
        if renewals.withLock({ $0.takeOwed() }) { renew(overlays) }
        var result = lego_file_status(parent, name, &status)
        if !overlays.areOutdated(parent, name, result, status) { return result }
        let hash = String(cString: name).hashValue
        if !renewals.withLock({ $0.mayHelp(hash) }) { return result }
        renew(overlays)
        result = lego_file_status(parent, name, &status)
        if !overlays.areOutdated(parent, name, result, status) { return result }
        renewals.withLock { $0.failed(hash) }
        return -ESTALE
    }

    /// Lets go of all that only waits to be used again, which would keep its names.
    private func renew(_ overlays: OverlayLayers) {
        for client in allClients { client.closeIdle() }
        overlays.forgetNames()
    }
}
