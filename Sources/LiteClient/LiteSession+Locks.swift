import CLite
import Kernel

/// An open lock of this session.
public struct LiteLock: Hashable, Sendable {
    public let handle: UInt64
}

extension LiteSession {
    func openLock(_ name: UnsafeRawBufferPointer, _ handle: inout UInt64) -> Int32 {
        var value: UInt64 = 0
        let status = runNamed(LITE_OP_LOCK_OPEN, name, collect: { value = $0.value })
        if status >= 0 { handle = value }
        return status
    }

    /// Answers 1 when the former holder ended while it held the lock.
    func lock(_ handle: UInt64, until deadline: Deadline) -> Int32 {
        var value: UInt64 = 0
        let status = run(LITE_OP_LOCK, bytes: 0, until: deadline) { submission, _ in
            submission.handle = handle
        } collect: { outcome, _ in
            value = outcome.value
        }
        return status < 0 ? status : value == 0 ? 0 : 1
    }

    func barrier(_ name: UnsafeRawBufferPointer, _ parties: UInt32, until deadline: Deadline) -> Int32 {
        runNamed(LITE_OP_BARRIER, name, until: deadline, fill: { $0.operand = UInt64(parties) })
    }

    /// Opens the lock of that name, making it at this node if there is none.
    public func openLock(_ name: String) throws(LiteFailure) -> LiteLock {
        var handle: UInt64 = 0
        var name = name
        try LiteFailure.check(name.withUTF8 { openLock(UnsafeRawBufferPointer($0), &handle) })
        return LiteLock(handle: handle)
    }

    /// Waits for its turn, first come, first served. True when the former holder ended while it held the lock: what
    /// the lock guards may be half changed.
    @discardableResult
    public func lock(_ lock: LiteLock, until deadline: Deadline) throws(LiteFailure) -> Bool {
        try LiteFailure.check(self.lock(lock.handle, until: deadline)) == 1
    }

    public func unlock(_ lock: LiteLock) throws(LiteFailure) {
        try LiteFailure.check(manage(LITE_OP_UNLOCK, lock.handle))
    }

    /// Closes the handle, unlocking first.
    public func close(_ lock: LiteLock) throws(LiteFailure) {
        try LiteFailure.check(manage(LITE_OP_LOCK_CLOSE, lock.handle))
    }

    /// Waits until so many wait at the barrier of that name.
    public func barrier(_ name: String, parties: Int, until deadline: Deadline) throws(LiteFailure) {
        var name = name
        try LiteFailure.check(
            name.withUTF8 { barrier(UnsafeRawBufferPointer($0), UInt32(clamping: parties), until: deadline) })
    }
}
