import Kernel
import Logging
import Wire

/// The product's memory engine: a `ProgramMonitor` for each program, one ExCache, one way to memory components.
struct MonitorEngine: MemoryEngine {
    let cache: ExCache
    let remote: RemoteMemory
    let logger: Logger
    let filter = SystemCallFilter.bytes()

    var residentBytes: UInt64 { cache.residentBytes }

    func makeMemory(
        for seat: ProgramSeat, listener: consuming Descriptor, onEnd: @escaping @Sendable (EndCause) -> Void
    ) throws(KernelError) -> any ProgramMemory {
        try ProgramMonitor(
            seat: seat, listener: listener, cache: cache, remote: remote, logger: logger
        ) { onEnd(EndCause($0)) }
    }
}

extension ProgramMonitor: ProgramMemory {}

extension EndCause {
    init(_ failure: ProgramFailure) {
        switch failure {
        case .componentLost: self = .lost(failure.reason)
        case .outOfRemoteMemory, .quotaExceeded, .internalError: self = .refused(failure.reason)
        }
    }
}
