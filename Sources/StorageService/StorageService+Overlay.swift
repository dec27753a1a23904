import CLinux
import Glibc
import Kernel

/// Renewals of the overlays that did not help, because what they were to renew is in use.
struct OverlayRenewals {
    /// One that did not help at once shall be made before the next name is looked up.
    private var isOwed = false
    /// Changes for which it did not help lately, and until when their names are taken as the overlay has them: the client
    /// asks once more, and then shall get an answer.
    private var failures: [(change: OverlayChange, until: Deadline)] = []
    /// What is held for long is not tried again for each name: so many at a time.
    private static let failures_max = 32
    private static let pause: Duration = .milliseconds(100)

    mutating func takeOwed() -> Bool {
        defer { isOwed = false }
        return isOwed
    }

    mutating func mayHelp(_ change: OverlayChange) -> Bool {
        failures.removeAll { $0.until.hasPassed }
        return failures.count < Self.failures_max && !failures.contains { $0.change == change }
    }

    mutating func failed(_ change: OverlayChange) {
        failures.append((change, .after(Self.pause)))
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
        guard let change = overlays.change(parent, name, result, status) else { return result }
        if !renewals.withLock({ $0.mayHelp(change) }) { return result }
        renew(overlays)
        result = lego_file_status(parent, name, &status)
        guard let rest = overlays.change(parent, name, result, status) else { return result }
        renewals.withLock { $0.failed(rest) }
        return -ESTALE
    }

    /// The same without anything being done about it: ESTALE where the host has changed what the overlay knows.
    func peek(
        _ call: StorageCall, _ parent: Int32, _ name: UnsafePointer<CChar>, _ status: inout lego_file_status
    ) -> Int32 {
        let result = lego_file_status(parent, name, &status)
        guard let overlays = call.tree.overlays else { return result }
        return overlays.change(parent, name, result, status) == nil ? result : -ESTALE
    }

    /// Lets go of all that only waits to be used again, which would keep its names.
    private func renew(_ overlays: OverlayLayers) {
        for client in allClients { client.closeIdle() }
        overlays.forgetNames()
    }
}
