import Glibc
import Kernel

/// Runs what blocks on a thread of its own: the test's thread belongs to a pool that the manager's HTTP server needs.
func blocking<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
    try await withCheckedThrowingContinuation { continuation in
        do {
            _ = try KernelThread(name: "test") { continuation.resume(with: Result { try body() }) }
        } catch {
            continuation.resume(throwing: error)
        }
    }
}

/// Runs `body` on a thread that opens its sockets as another user. The kernel keeps that user per thread, and glibc,
/// for this one call, too.
func blocking<Value: Sendable>(asUser user: UInt32, _ body: @escaping @Sendable () throws -> Value) async throws
    -> Value
{
    typealias SetUser = @convention(c) (UInt32) -> Int32
    return try await blocking {
        guard let symbol = dlsym(nil, "setfsuid") else { throw KernelError("dlsym setfsuid", ENOSYS) }
        let setUser = unsafeBitCast(symbol, to: SetUser.self)
        _ = setUser(user)
        // The call does not say whether it worked; asking for an impossible user answers the present one.
        guard UInt32(bitPattern: setUser(.max)) == user else { throw KernelError("setfsuid", EPERM) }
        return try body()
    }
}

/// Whether `condition` comes true within ten seconds. For effects that nothing announces.
func eventually(_ condition: @escaping @Sendable () -> Bool) async throws -> Bool {
    try await blocking {
        let deadline = Deadline.after(.seconds(10))
        while !condition() {
            if deadline.hasPassed { return false }
            usleep(1000)
        }
        return true
    }
}
