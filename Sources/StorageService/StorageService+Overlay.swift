import CLinux
import Glibc
import Kernel

/// When the overlays were last made to look again.
struct OverlayRenewals {
    /// What is in use could not be renewed at once: it shall be before the next name is looked up.
    var isOwed = false
    /// None is tried before: what did not help is not repeated for each name.
    var notBefore = Deadline(nanoseconds: 0)
    static let pause: Duration = .milliseconds(100)
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
        if takeOwedRenewal() { renew(overlays) }
        var result = lego_file_status(parent, name, &status)
        if overlays.outdated(parent, name, result, status) == nil || !mayRenew() { return result }
        renew(overlays)
        result = lego_file_status(parent, name, &status)
        if overlays.outdated(parent, name, result, status) == nil { return result }
        renewals.withLock { $0 = OverlayRenewals(isOwed: true, notBefore: .after(OverlayRenewals.pause)) }
        return -ESTALE
    }

    private func takeOwedRenewal() -> Bool {
        renewals.withLock { renewals in
            defer { renewals.isOwed = false }
            return renewals.isOwed
        }
    }

    private func mayRenew() -> Bool { renewals.withLock { $0.notBefore.hasPassed } }

    /// Lets go of all that only waits to be used again, which would keep its names.
    private func renew(_ overlays: OverlayLayers) {
        for client in allClients { client.closeIdle() }
        overlays.forgetNames()
    }
}
