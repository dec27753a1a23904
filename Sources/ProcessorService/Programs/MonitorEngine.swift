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
            program: seat.program, name: seat.name, listener: listener, initProcess: seat.initProcess,
            guardian: seat.guardian, cache: cache, remote: remote, limitBytes: seat.limitBytes, logger: logger
        ) { onEnd(EndCause($0)) }
    }
}

extension ProgramMonitor: ProgramMemory {}

extension EndCause {
    init(_ failure: ProgramFailure) {
        switch failure {
        case .componentLost: self = .lost(failure.reason)
        case .outOfRemoteMemory, .internalError: self = .refused(failure.reason)
        }
    }
}
