import CLinux
import Kernel

/// What a thread waits for: the answer to a call, or the completion of a transfer. Lives in a fixed table of its link, a cache line
/// each, so that a waiting thread spins on memory that nobody else writes.
///
/// `state` is read by the waiting thread at any time; everything is changed under the lock of the gate that completes it, except
/// before the operation is posted, when it is its owner's alone.
/// Fields are assigned, never changed in place (`+=`): to Swift that is an access to the whole, `state` with it.
struct Waiter {
    enum State {
        static let idle: UInt32 = 0
        /// Posted; the owner spins, or sleeps on the gate's descriptor.
        static let pending: UInt32 = 1
        /// Posted; the owner sleeps on this word.
        static let sleeping: UInt32 = 2
        /// The owner has given up; whoever completes it gives the slot back.
        static let abandoned: UInt32 = 3
        /// Posted; nobody waits: its end is told to the node's `onEnded`.
        static let detached: UInt32 = 4
        /// Completed: the other fields say how.
        static let done: UInt32 = 5
        /// Will never complete: the peer is gone.
        static let lost: UInt32 = 6
    }

    /// The futex word. First, so that its address is the waiter's.
    var state = State.idle
    /// A call: the callee's status. A transfer: the first `WorkStatus` other than success.
    var status: Int32 = 0
    /// A call: bytes of the response. A transfer: portions whose completion is outstanding.
    var count: UInt32 = 0
    /// A detached call: whether the poller is to look for its response.
    var isUrgent: UInt32 = 0
    /// A call: its number, which the response must repeat. Never reused within a slot.
    var call: UInt64 = 0
    /// The list of sleeping waiters, see `CompletionGate`.
    var next: UnsafeMutablePointer<Waiter>?
    var previous: UnsafeMutablePointer<Waiter>?
    /// Of a detached call: what its end is told with, and when it is given up, on the monotonic clock in nanoseconds.
    var token: UInt64 = 0
    var limit_ns: UInt64 = 0
    var padding: UInt64 = 0

    static func table(count: Int) -> UnsafeMutablePointer<Waiter> {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: count * MemoryLayout<Waiter>.stride, alignment: 64)
        let table = memory.bindMemory(to: Waiter.self, capacity: count)
        table.initialize(repeating: Waiter(), count: count)
        return table
    }
}

extension UnsafeMutablePointer where Pointee == Waiter {
    @inline(__always)
    var word: UnsafeMutablePointer<UInt32> {
        UnsafeMutableRawPointer(self).assumingMemoryBound(to: UInt32.self)
    }
    @inline(__always)
    var state: UInt32 { lego_atomic_load_u32(word) }
    /// Whether the wait is over.
    @inline(__always)
    var isOver: Bool { lego_atomic_load_u32(word) >= Waiter.State.done }
    /// Before posting, by the owner: ordered before every later load, for the hand-shake with the loss of the peer.
    @inline(__always)
    func begin() { _ = lego_atomic_exchange_u32(word, Waiter.State.pending) }
    @inline(__always)
    func reset() { lego_atomic_store_u32(word, Waiter.State.idle) }
}
