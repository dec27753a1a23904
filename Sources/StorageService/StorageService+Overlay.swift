import CLinux
import Glibc
import Kernel

/// What becomes of a name whose file the host has exchanged while somebody has it open.
enum Exchanged {
    /// EBUSY: whoever asks lets go of what he has closed, and asks again.
    case mayBeBusy
    /// The file that is open is found.
    case open
}

/// Renewals of the overlays that did not help, because what they were to renew is in use.
struct OverlayRenewals {
    private struct Failure {
        var change: OverlayChange
        var until: Deadline
        /// Its name is taken as the overlay has it.
        var isGivenUp: Bool
    }
    private var failures: [Failure] = []
    private var isOwed = false
    /// What is held for long is not tried again for each name: so many at a time.
    private static let failures_max = 32
    private static let pause: Duration = .milliseconds(100)

    /// Whether one that did not help shall be made once more, at a moment when no directory is in use.
    mutating func takeOwed() -> Bool {
        defer { isOwed = false }
        return isOwed
    }

    mutating func mayHelp(_ change: OverlayChange) -> Bool {
        failures.removeAll { $0.until.hasPassed }
        guard let known = failures.first(where: { $0.change == change }) else {
            return failures.count < Self.failures_max
        }
        return !known.isGivenUp
    }

    mutating func failed(_ change: OverlayChange, isGivenUp: Bool) {
        isOwed = true
        let failure = Failure(change: change, until: .after(Self.pause), isGivenUp: isGivenUp)
        if let index = failures.firstIndex(where: { $0.change == change }) {
            failures[index] = failure
        } else {
            failures.append(failure)
        }
    }
}

// Names, as the tree has them and the host below it. On workers.
extension StorageService {
    /// Before a name is looked up that was answered EBUSY: a directory that the host has made anew is in use while a name is
    /// looked up in it, and goes on to be the old one.
    func renewOwed(_ call: StorageCall) {
        guard let overlays = call.tree.overlays, renewals.withLock({ $0.takeOwed() }) else { return }
        renew(overlays)
    }

    /// The status of a name in a directory: 0, or a negative error number.
    func find(
        _ call: StorageCall, _ parent: Int32, _ name: UnsafePointer<CChar>, _ status: inout lego_file_status,
        _ exchanged: Exchanged
    ) -> Int32 {
        var result = lego_file_status(parent, name, &status)
        guard let overlays = call.tree.overlays, let change = overlays.change(parent, name, result, status),
            renewals.withLock({ $0.mayHelp(change) })
        else { return result }
        renew(overlays)
        result = lego_file_status(parent, name, &status)
        guard let rest = overlays.change(parent, name, result, status) else { return result }
        renewals.withLock { $0.failed(rest, isGivenUp: exchanged == .open) }
        return exchanged == .open ? result : -EBUSY
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
