import CLinux
import Kernel

/// Tells threads that wait for connection requests when to look again. Devices that are parts of one share it.
final class Arrivals: Sendable {
    /// Futex word: counts requests and closings. Never changes place.
    private nonisolated(unsafe) let word: UnsafeMutablePointer<UInt32>

    init() {
        word = .allocate(capacity: 1)
        word.initialize(to: 0)
    }

    deinit { word.deallocate() }

    func announce() {
        _ = lego_atomic_add_u32(word, 1)
        Futex.wake(word, count: .max)
    }

    /// What `look` finds, as soon as it finds something; nil at the deadline, or when it says that nothing more comes.
    func next<Request>(until deadline: Deadline, _ look: () -> (request: Request?, isClosed: Bool)) -> Request? {
        while true {
            let seen = lego_atomic_load_u32(word)
            let (request, isClosed) = look()
            if let request { return request }
            if isClosed || deadline.hasPassed { return nil }
            Futex.wait(word, while: seen, until: deadline)
        }
    }
}
